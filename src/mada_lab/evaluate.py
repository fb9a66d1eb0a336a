"""The loss on a fixed set of batches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mada_lab.precision import Precision

Batch = tuple[Tensor, Tensor]


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch], precision: Precision) -> float:
    """Mean cross-entropy in nats per token over `batches`, without dropout. Draws no random number."""
    was_training = model.training
    model.eval()
    total = 0.0
    for ids, targets in batches:
        with precision.autocast():
            _, loss = model(ids.to(precision.device), targets.to(precision.device))
        total += loss.item()
    model.train(was_training)
    return total / len(batches)
