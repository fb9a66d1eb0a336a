"""The loss on a fixed set of batches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mada_lab.distributed import ALONE, World
from mada_lab.precision import Precision

Batch = tuple[Tensor, Tensor]


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World = ALONE) -> float:
    """Mean cross-entropy in nats per token over `batches`, without dropout. Draws no random number.

    Processes share the batches; each is given as many passes, as a sharded model needs all of them for each.
    """
    was_training = model.training
    model.eval()
    losses = torch.zeros(len(batches), device=precision.device)
    for first in range(0, len(batches), world.size):
        place = min(first + world.rank, len(batches) - 1)
        ids, targets = batches[place]
        with precision.autocast():
            _, loss = model(ids.to(precision.device), targets.to(precision.device))
        if place == first + world.rank:
            losses[place] = loss
    model.train(was_training)
    return sum(world.sum(losses).tolist()) / len(batches)
