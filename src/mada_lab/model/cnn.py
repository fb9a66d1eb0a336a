"""A plain convolutional network of 5 layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the field's name for it

from mada_lab.model.classifier import Classifier


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
