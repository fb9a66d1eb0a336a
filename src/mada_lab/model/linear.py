"""Networks of fully connected layers: none hidden, which is multinomial logistic regression, or several.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the field's name for it


class MLP(nn.Module):
    """Linear layers with biases, and a ReLU between two. PyTorch's own initialisation."""

    def __init__(self, shape: tuple[int, int, int], hidden: Sequence[int], classes: int) -> None:
        """Fresh weights, from torch's global generator.

        Args:
            shape: H, W and C.
            hidden: Units of each hidden layer; none for logistic regression.
            classes: K.
        """
        super().__init__()
        sizes = list(pairwise((prod(shape), *hidden, classes)))
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in sizes[:-1])
        self.head = nn.Linear(*sizes[-1])

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (B, K), and the mean cross-entropy, 0-d.

        Args:
            images: float32 of shape (B, C, H, W).
            labels: int64 of shape (B,).
        """
        x = images.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits = self.head(x)
        return logits, F.cross_entropy(logits, labels)
