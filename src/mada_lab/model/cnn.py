"""A plain convolutional network of 5 layers.

Shapes: B images, C channels, H x W pixels, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the field's name for it


class CNN(nn.Module):
    """Three 3x3 convolutions, each with a ReLU and a 2x2 maximum, then two linear layers.

    The convolutions have w, 2w and 4w channels, the hidden linear layer 8w units; each layer has a bias. Without
    normalisation, for which a learning rate matters more than for the ResNet. PyTorch's own initialisation.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int, width: int) -> None:
        """Fresh weights, from torch's global generator.

        Args:
            channels: C.
            size: H and W; at least 8 each.
            classes: K.
            width: w.
        """
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in ((channels, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.hidden = nn.Linear(4 * width * (size[0] // 8) * (size[1] // 8), 8 * width)
        self.head = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (B, K), and the mean cross-entropy, 0-d.

        Args:
            images: float32 of shape (B, C, H, W).
            labels: int64 of shape (B,).
        """
        x = images
        for convolution in self.convolutions:
            x = F.max_pool2d(torch.relu(convolution(x)), 2)
        x = torch.relu(self.hidden(x.flatten(1)))
        logits = self.head(x)
        return logits, F.cross_entropy(logits, labels)
