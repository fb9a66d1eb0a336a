"""The loss, or loss and accuracy, on a fixed set of batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mada_lab.compute.device import Precision
from mada_lab.compute.world import ALONE, World

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Measured:
    """How good a model is.

    Attributes:
        loss: Mean cross-entropy, in nats.
        accuracy: Share of right answers, in [0, 1]; None where nobody asks for it.
    """

    loss: float
    accuracy: float | None = None


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World = ALONE) -> float:
    """Mean cross-entropy in nats per token over `batches` of one length. Draws no random number, drops nothing."""
    losses = torch.zeros(len(batches), device=precision.device)
    for i, _, _, loss in _shared(model, batches, precision, world):
        losses[i] = loss
    return sum(world.sum(losses).tolist()) / len(batches)


@torch.no_grad()
def classification(model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World = ALONE) -> Measured:
    """Mean loss and accuracy per image over `batches` of any lengths. Draws no random number, drops nothing."""
    found = torch.zeros(3, len(batches), device=precision.device)  # sum of losses, right answers, images
    for i, labels, logits, loss in _shared(model, batches, precision, world):
        right = (logits.argmax(1) == labels).sum()
        found[0, i], found[1, i], found[2, i] = loss * len(labels), right, len(labels)
    total, right, count = (sum(row) for row in world.sum(found).tolist())
    return Measured(total / count, right / count)


def _shared(
    model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """This process's share of `batches`, in evaluation mode: place, targets, outputs and loss of each.

    Each process is given as many passes, as a model that processes share needs all of them for each.
    """
    was_training = model.training
    model.eval()
    for first in range(0, len(batches), world.size):
        place = min(first + world.rank, len(batches) - 1)
        inputs, targets = precision.send(batches[place])
        with precision.autocast():
            outputs, loss = model(inputs, targets)
        if place == first + world.rank:
            yield place, targets, outputs, loss
    model.train(was_training)
