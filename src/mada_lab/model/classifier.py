"""The base of the networks for images.

Shapes: B images, C channels, H x W pixels, K classes.
"""

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
