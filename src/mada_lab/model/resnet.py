"""The residual network for CIFAR-10 (He, Zhang, Ren, Sun, Deep residual learning for image recognition, 2016, 4.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the field's name for it

from mada_lab.errors import ConfigError
from mada_lab.model.images import Classifier


class Block(nn.Module):
    """Two 3x3 convolutions, each with batch normalization, and the shortcut around them (the paper's option A)."""

    def __init__(self, before: int, after: int) -> None:
        """A block from `before` to `after` channels; where these differ, it halves height and width."""
        super().__init__()
        self.stride, self.added = (1 if before == after else 2), after - before
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, before, H, W) to (B, after, H / stride, W / stride), rounded up."""
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(shortcut + self.norm2(self.conv2(inner)))


class ResNet(Classifier):
    """A convolution, three stages of n blocks with w, 2w and 4w channels, the mean over all places, a linear layer.

    The paper's ResNet-20 has n = 3 and w = 16. Convolutions start as He et al. (2015) say: normal, with variance
    2 / (9 * outputs).
    """

    def __init__(self, channels: int, classes: int, depth: int, width: int) -> None:
        """Fresh weights, from torch's global generator, for C `channels`, K `classes`, a `width` w.

        Raises:
            ConfigError: The `depth` isn't 6n + 2 layers with weights, n >= 1.
        """
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ConfigError(f"model, in key depth: expected 6n + 2 (8, 14, 20, ...), got {depth}; change it")
        widths = [width] * (blocks + 1) + [2 * width] * blocks + [4 * width] * blocks
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*map(Block, widths, widths[1:]))
        self.head = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def logits(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(images)))
        logits: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return logits
