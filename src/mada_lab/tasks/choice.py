"""The task of a configuration."""

from typing import Any

from torch import Tensor, nn

from mada_lab.config.keys import FRESH, RunConfig, TrainConfig, VisionConfig
from mada_lab.data.corpus import Corpus
from mada_lab.data.images import ImageData
from mada_lab.errors import ConfigError, shared
from mada_lab.tasks import Data, Task, language, vision


def choose(config: RunConfig, data: Data) -> Task:
    """The task of `config` on `data`.

    Raises:
        TypeError: One is of texts, the other of images.
        ConfigError: `init_from` names weights that don't fit, or a key has no effect on images.
        CheckpointError: `init_from` names damaged weights.
    """
    match config, data:
        case TrainConfig(), Corpus():
            return language.Language.of(config, data)
        case VisionConfig(), ImageData():
            _require_for_images(config)
            return vision.Vision(config, data)
    raise TypeError(f"{type(config).__name__} and {type(data).__name__} don't go together")


def _require_for_images(config: VisionConfig) -> None:
    words = " or ".join(FRESH)
    for key, fits, expected, remedy in (
        ("init_from", config.init_from in FRESH, words, "only texts start from trained weights"),
        ("parallel", config.parallel == "ddp", "ddp", "image networks are small, and each process has a whole one"),
        ("peak_flops", config.peak_flops is None, "none", "leave it out: operations are counted for texts alone"),
    ):
        if not fits:
            what = f"expected {expected}, got {getattr(config, key)}; {remedy}"
            raise shared(ConfigError(f"configuration, key {key}: {what}"))


def kind(tree: dict[str, Any]) -> type[RunConfig]:
    """The class of the configuration in a checkpoint."""
    return VisionConfig if "classes" in tree else TrainConfig


def rebuild(config: RunConfig, tree: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint with the configuration `config`, with fresh weights.

    Raises ConfigError, ValueError, KeyError, TypeError or AttributeError if `tree` doesn't fit `config`. Sizes that
    exceed the saved weights are refused before a network is made.
    """
    tensors: dict[str, Tensor] = tree["state"]["model"]
    match config:
        case TrainConfig():
            return language.rebuild_model(config, tree, tensors)
        case VisionConfig():
            return vision.rebuild_model(config, tree, tensors)
    raise TypeError(f"{type(config).__name__} has no network")
