"""`mada-lab vision`."""

import warnings
from contextlib import nullcontext
from pathlib import Path

USAGE = """\
vision [CONFIG.toml] --key=value ...
    train a CNN or a ResNet on images; `mada-lab vision --help` lists the keys
"""


def run(words: list[str]) -> None:
    """`vision [CONFIG.toml] --key=value ...`."""
    from mada_lab import settings, starting_point
    from mada_lab.config import VisionConfig

    config = settings.load(words, VisionConfig)
    from mada_lab import distributed
    from mada_lab.cli.train import require_optimizer
    from mada_lab.data.prepare import open_or_prepare_images
    from mada_lab.loop import train as train_model
    from mada_lab.mirror import mirrored
    from mada_lab.progress import ProgressBar

    # DDP's note on weights of one input channel, whose strides are two descriptions of one layout
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    config, is_first = starting_point.resolve(config), distributed.is_first()
    require_optimizer(config, shown=is_first)
    with distributed.group(config), ProgressBar(config.max_iters, config.optimizer, shown=is_first) as bar:
        with distributed.one_by_one():
            data = open_or_prepare_images(config.dataset, Path(config.data_dir))
        with mirrored(config, bar) if is_first else nullcontext(bar) as listen:
            session = train_model(config, data, listen)
    if is_first:
        print(
            f"{config.optimizer}: final test accuracy {session.val_accuracy:.4f}, loss {session.val_loss:.4f} "
            f"after {session.step} steps: {config.out_dir}"
        )
