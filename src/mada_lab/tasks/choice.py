"""The task of a configuration."""

from typing import Any

from torch import Tensor, nn

from mada_lab.config.keys import RunConfig, TrainConfig, VisionConfig
from mada_lab.data.corpus import Corpus
from mada_lab.data.images import ImageData
from mada_lab.errors import ConfigError, shared
from mada_lab.pretrained import init_from
from mada_lab.tasks import Data, Task, language, vision


def choose(config: RunConfig, data: Data) -> Task:
    """The task that `config` describes, on `data`.

    Raises:
        TypeError: They are of two kinds.
        ConfigError: `init_from` names weights that can't be taken.
        CheckpointError: It names damaged ones.
    """
    match config, data:
        case TrainConfig(), Corpus():
            return language.Language.of(config, data)
        case VisionConfig(), ImageData():
            if config.init_from not in init_from.WORDS:
                raise ConfigError(
                    f"configuration, key init_from: expected {' or '.join(init_from.WORDS)}, got {config.init_from}; "
                    "only texts start from trained weights"
                )
            if config.parallel != "ddp":
                raise shared(
                    ConfigError(
                        f"configuration, key parallel: expected ddp, got {config.parallel}; networks for images are "
                        "small, and each process has the whole of them"
                    )
                )
            if config.peak_flops is not None:
                what = f"expected none, as operations are counted of texts alone, got {config.peak_flops}"
                raise shared(ConfigError(f"configuration, key peak_flops: {what}; leave it out"))
            return vision.Vision(config, data)
    raise TypeError(f"{type(config).__name__} and {type(data).__name__} don't go together")


def kind(tree: dict[str, Any]) -> type[RunConfig]:
    """The class of the configuration in a checkpoint."""
    return VisionConfig if "classes" in tree else TrainConfig


def rebuild(config: RunConfig, tree: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint, with fresh weights, once its sizes are borne out by the saved ones.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: They aren't, or it is no checkpoint of this configuration.
    """
    tensors: dict[str, Tensor] = tree["state"]["model"]
    match config:
        case TrainConfig():
            return language.rebuild_model(config, tree, tensors)
        case VisionConfig():
            return vision.rebuild_model(config, tree, tensors)
    raise TypeError(f"{type(config).__name__} has no network")
