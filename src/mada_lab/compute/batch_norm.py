"""Running statistics of batch normalisation on several processes: those of the run that one process would do.

A forward pass normalises by its own batch, whichever process computes it, and moves a running mean r to (1-m) r + m b.
Passes 0, 1, 2, ... of a step are dealt out in turn to P processes. If each of them has (1-m)^P in place of 1-m
(`share`), then the mean of their r, weighted by (1-m)^(P-1-rank), is what all passes in one line would have come to
(`merge`).
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mada_lab.compute.world import World


def share(model: nn.Module, world: World) -> None:
    """Makes the statistics of `model` move, at each pass of this process, as far as in P passes."""
    if world.size > 1:
        for module in _normalisations(model):
            module.momentum = 1 - (1 - module.momentum) ** world.size


@torch.no_grad()
def merge(model: nn.Module, kept: list[Tensor], world: World) -> None:
    """After the passes of a step: puts the mean in the place of each process's statistics, the same bits on all.

    Args:
        model: Its `share` was called.
        kept: Its buffers before the first pass.
        world: The processes.
    """
    normalisations = _normalisations(model)
    if world.size == 1 or not normalisations:
        return
    weighted = [(x, _weight(module, world)) for module in normalisations for x in _statistics(module)]
    merged = world.sum(torch.cat([x.double().flatten() * weight for x, weight in weighted]))
    for (x, _), mean in zip(weighted, merged.split([x.numel() for x, _ in weighted]), strict=True):
        x.copy_(mean.view_as(x))
    before = {id(x): old for x, old in zip(model.buffers(), kept, strict=True)}
    counts = [module.num_batches_tracked for module in normalisations]
    added = world.sum(torch.stack([x - before[id(x)] for x in counts]))
    for x, passes in zip(counts, added, strict=True):
        x.copy_(before[id(x)] + passes)


def _normalisations(model: nn.Module) -> list[_BatchNorm]:
    return [x for x in model.modules() if isinstance(x, _BatchNorm)]


def _statistics(module: _BatchNorm) -> tuple[Tensor, Tensor]:
    return module.running_mean, module.running_var


def _weight(module: _BatchNorm, world: World) -> float:
    """This process's share of the mean; all of them add up to 1."""
    kept = (1 - module.momentum) ** (1 / world.size)  # 1-m of one process
    return (1 - kept) * kept ** (world.size - 1 - world.rank) / module.momentum
