"""The task of training a network on labeled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from mada_lab.compute.device import Precision
from mada_lab.compute.world import World
from mada_lab.config.keys import VisionConfig
from mada_lab.data.image_batches import ImageBatches, Images, InOrder, Scale, load, with_label_noise
from mada_lab.data.images import ImageData
from mada_lab.model.images import CNN, MLP
from mada_lab.model.resnet import ResNet
from mada_lab.tasks.measure import Batch, Measured, classification, require_size

#: By network without convolutions.
HIDDEN_LAYERS = {"mlp": 2, "logistic": 0}


def build_model(config: VisionConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network that `config` describes, with fresh weights, for images of this height, width and channels."""
    if config.model == "resnet":
        return ResNet(shape[2], classes, config.depth, config.width)
    if config.model in ("mlp", "logistic"):
        return MLP(shape, (config.width,) * HIDDEN_LAYERS[config.model], classes)
    return CNN(shape[2], shape[:2], classes, config.width)


def rebuild_model(config: VisionConfig, sizes: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a checkpoint, with fresh weights; arguments and errors as of `choice.rebuild`."""
    height, width, channels = sizes["shape"]
    require_size(least_parameters(config, (height, width, channels), sizes["classes"]), tensors)
    return build_model(config, (height, width, channels), sizes["classes"])


def least_parameters(config: VisionConfig, shape: tuple[int, int, int], classes: int) -> int:
    """A lower bound of the number of parameters: those of the head, the first layer and the hidden layers."""
    height, width, channels = shape
    if config.model == "logistic":
        return height * width * channels * classes
    if config.model == "mlp":
        return config.width * (height * width * channels + config.width + classes)
    ends = config.width * (4 * classes + 9 * channels)
    if config.model == "resnet":
        return ends + 9 * (config.depth - 2) * config.width**2
    return ends + 32 * config.width**2 * (height // 8) * (width // 8)


@dataclass(frozen=True)
class Vision:
    """The task of `mada-lab vision`: classify images."""

    config: VisionConfig
    data: ImageData

    @cached_property
    def images(self) -> Images:
        """The training images. Raises DataError if there are too few."""
        images = load(self.data.train, self.config.train_images)
        return with_label_noise(images, self.config.label_noise, len(self.data.meta.classes))

    @cached_property
    def scale(self) -> Scale:
        return Scale.of(self.images)

    def model(self) -> nn.Module:
        return build_model(self.config, self.data.meta.shape, len(self.data.meta.classes))

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """None: the networks are small."""
        return []

    def batches(self, world: World) -> ImageBatches:
        config, images, share = self.config, (self.images, self.scale), (world.rank, world.size)
        return ImageBatches(*images, config.batch_size, config.seed, config.crop_padding, config.flip, *share)

    def validation(self) -> InOrder:
        """The test images."""
        return InOrder(load(self.data.test, self.config.test_images), self.scale, self.config.batch_size)

    def training(self) -> InOrder:
        """Training images without augmentation, at most as many as there are test images."""
        count = min(len(self.images), self.config.test_images or len(self.data.test))
        return InOrder(load(self.data.train, count), self.scale, self.config.batch_size)

    def measure(self, model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World) -> Measured:
        return classification(model, batches, precision, world)

    def seen(self, passes: int) -> dict[str, int]:
        return {"images": passes * self.config.batch_size}

    def flops(self, model: nn.Module) -> None:
        """Not counted."""

    def sizes(self) -> dict[str, Any]:
        return {"shape": list(self.data.meta.shape), "classes": len(self.data.meta.classes)}
