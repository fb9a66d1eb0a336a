"""`mada-lab vision`."""

from pathlib import Path

from mada_lab.errors import ConfigError

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

    if distributed.started_by_torchrun():
        raise ConfigError("vision, in WORLD_SIZE: expected one process, got several; start it without torchrun")
    config = starting_point.resolve(config)
    require_optimizer(config)
    data = open_or_prepare_images(config.dataset, Path(config.data_dir))
    with ProgressBar(config.max_iters, config.optimizer) as bar, mirrored(config, bar) as listen:
        session = train_model(config, data, listen)
    print(
        f"{config.optimizer}: final test accuracy {session.val_accuracy:.4f}, loss {session.val_loss:.4f} "
        f"after {session.step} steps: {config.out_dir}"
    )
