"""Small networks for images: fully connected, and convolutional.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the field's name for it


class Classifier(nn.Module):
    """A network with a method `logits`: images, float32 of shape (B, C, H, W), to logits of shape (B, K)."""

    def logits(self, images: Tensor) -> Tensor:
        """Each network's own."""
        raise NotImplementedError

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (B, K), and the mean cross-entropy, 0-d.

        Args:
            images: float32 of shape (B, C, H, W).
            labels: int64 of shape (B,).
        """
        logits = self.logits(images)
        return logits, F.cross_entropy(logits, labels)


class MLP(Classifier):
    """Linear layers with biases, and ReLUs between them. PyTorch's own initialization."""

    def __init__(self, shape: tuple[int, int, int], hidden: Sequence[int], classes: int) -> None:
        """Fresh weights, from torch's global generator, for a `shape` H, W, C, so many `hidden` units, K `classes`."""
        super().__init__()
        sizes = list(pairwise((prod(shape), *hidden, classes)))
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in sizes[:-1])
        self.head = nn.Linear(*sizes[-1])

    def logits(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits: Tensor = self.head(x)
        return logits


class CNN(Classifier):
    """Three 3x3 convolutions, each with a ReLU and a 2x2 maximum, then two linear layers.

    The convolutions have w, 2w and 4w channels, the hidden linear layer 8w units; each layer has a bias. It has no
    normalization, so the learning rate matters more than for the ResNet. PyTorch's own initialization.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int, width: int) -> None:
        """Fresh weights, from torch's global generator, for C `channels`, `size` H, W of at least 8, K `classes`."""
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in ((channels, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.hidden = nn.Linear(4 * width * (size[0] // 8) * (size[1] // 8), 8 * width)
        self.head = nn.Linear(8 * width, classes)

    def logits(self, images: Tensor) -> Tensor:
        x = images
        for convolution in self.convolutions:
            x = F.max_pool2d(torch.relu(convolution(x)), 2)
        logits: Tensor = self.head(torch.relu(self.hidden(x.flatten(1))))
        return logits
