"""The loss, or loss and accuracy, on a fixed set of batches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mada_lab.distributed import ALONE, World
from mada_lab.precision import Precision

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
    """Mean cross-entropy in nats per token over `batches`, without dropout. Draws no random number.

    Processes share the batches; each is given as many passes, as a sharded model needs all of them for each.
    """
    was_training = model.training
    model.eval()
    losses = torch.zeros(len(batches), device=precision.device)
    for first in range(0, len(batches), world.size):
        place = min(first + world.rank, len(batches) - 1)
        ids, targets = precision.send(batches[place])
        with precision.autocast():
            _, loss = model(ids, targets)
        if place == first + world.rank:
            losses[place] = loss
    model.train(was_training)
    return sum(world.sum(losses).tolist()) / len(batches)


@torch.no_grad()
def classification(model: nn.Module, batches: Iterable[Batch], precision: Precision) -> Measured:
    """Mean loss and accuracy per image over `batches` of any lengths, without dropout. Draws no random number."""
    was_training = model.training
    model.eval()
    total, right, count = 0.0, 0, 0
    for images, labels in batches:
        labels = labels.to(precision.device)
        with precision.autocast():
            logits, loss = model(images.to(precision.device), labels)
        total += loss.item() * len(labels)
        right += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    model.train(was_training)
    return Measured(total / count, right / count)
