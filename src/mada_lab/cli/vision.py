"""`mada-lab vision`."""

import warnings

from mada_lab.cli.train import trained
from mada_lab.config import parsing
from mada_lab.config.arguments import Arguments
from mada_lab.config.keys import VisionConfig


def arguments() -> Arguments:
    """What may be typed after `vision`."""
    return parsing.arguments_of(VisionConfig)


def run(words: list[str]) -> None:
    """`vision [CONFIG] --key=value ...`."""
    # DDP's note on weights of one input channel, whose strides are two descriptions of one layout
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    session = trained(words, VisionConfig)
    if session.world.is_first:
        print(
            f"{session.config.optimizer}: final test accuracy {session.val_accuracy:.4f}, loss {session.val_loss:.4f} "
            f"after {session.step} steps: {session.folder}"
        )
