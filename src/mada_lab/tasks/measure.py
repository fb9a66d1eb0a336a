"""Loss and accuracy on a fixed set of batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mada_lab.compute.device import Precision
from mada_lab.compute.world import ALONE, World

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Measured:
    """Mean cross-entropy, in nats, and the share of correct answers; None if the task has no accuracy."""

    loss: float
    accuracy: float | None = None


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World = ALONE) -> float:
    """Mean cross-entropy in nats per token over `batches` of one length, without dropout and random numbers."""
    losses = torch.zeros(len(batches), device=precision.device)
    for i, _, _, loss in _shared(model, batches, precision, world):
        losses[i] = loss
    return sum(world.sum(losses).tolist()) / len(batches)


@torch.no_grad()
def classification(model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World = ALONE) -> Measured:
    """Mean loss and accuracy per image over `batches` of any lengths, without dropout and random numbers."""
    sums = torch.zeros(3, len(batches), device=precision.device)  # of losses, correct answers, images
    for i, labels, logits, loss in _shared(model, batches, precision, world):
        correct = (logits.argmax(1) == labels).sum()
        sums[0, i], sums[1, i], sums[2, i] = loss * len(labels), correct, len(labels)
    total, correct, count = (sum(row) for row in world.sum(sums).tolist())
    return Measured(total / count, correct / count)


def _shared(
    model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """This process's share of `batches`, in evaluation mode: index, targets, outputs and loss of each.

    Each process does as many passes: a sharded model needs all processes in each pass.
    """
    was_training = model.training
    model.eval()
    for first in range(0, len(batches), world.size):
        index = min(first + world.rank, len(batches) - 1)
        inputs, targets = precision.send(batches[index])
        with precision.autocast():
            outputs, loss = model(inputs, targets)
        if index == first + world.rank:
            yield index, targets, outputs, loss
    model.train(was_training)


def require_size(least: int, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless `least`, a network's number of parameters, is positive and at most that of `tensors`."""
    saved = sum(x.numel() for x in tensors.values())
    if not 0 < least <= saved:
        raise ValueError(f"configuration: expected sizes of at most {saved:,} parameters, got {least:,}")
