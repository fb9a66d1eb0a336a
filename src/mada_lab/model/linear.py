"""Networks of fully connected layers; without hidden ones that is multinomial logistic regression."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from mada_lab.model.classifier import Classifier


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
