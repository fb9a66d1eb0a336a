"""Running statistics of batch normalization on several processes: the same as in a run on one process.

A forward pass normalizes by its own batch, and changes a running mean r to (1-m) r + m b. Passes 0, 1, 2, ... of a step
go to P processes in turn. If each process has (1-m)^P in place of 1-m (`share`), then the mean of their r, weighted by
(1-m)^(P-1-rank), is the r of one process that computes all passes in order (`merge`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mada_lab.compute.world import World


def share(model: nn.Module, world: World) -> None:
    """Sets the momentum of `model` so that a pass of this process counts like P passes."""
    if world.size > 1:
        for module in _layers(model):
            module.momentum = 1 - (1 - module.momentum) ** world.size


@torch.no_grad()
def merge(model: nn.Module, kept: list[Tensor], world: World) -> None:
    """Replaces each process's statistics, after the passes of a step, by their mean, with the same bits on all.

    `model` was passed to `share`; `kept` are its buffers before the first pass.
    """
    layers = _layers(model)
    if world.size == 1 or not layers:
        return
    weighted = [(x, _weight(module, world)) for module in layers for x in (module.running_mean, module.running_var)]
    merged = world.sum(torch.cat([x.double().flatten() * weight for x, weight in weighted]))
    for (x, _), mean in zip(weighted, merged.split([x.numel() for x, _ in weighted]), strict=True):
        x.copy_(mean.view_as(x))
    before = {id(x): old for x, old in zip(model.buffers(), kept, strict=True)}
    counts = [module.num_batches_tracked for module in layers]
    added = world.sum(torch.stack([x - before[id(x)] for x in counts]))
    for x, passes in zip(counts, added, strict=True):
        x.copy_(before[id(x)] + passes)


def _layers(model: nn.Module) -> list[Any]:
    return [x for x in model.modules() if isinstance(x, _BatchNorm)]


def _weight(layer: Any, world: World) -> float:
    """This process's weight in the mean; the weights of all processes add up to 1."""
    past = (1 - layer.momentum) ** (1 / world.size)  # 1-m of one process
    weight: float = (1 - past) * past ** (world.size - 1 - world.rank) / layer.momentum
    return weight
