"""`mada-lab vision`."""

import warnings

USAGE = """\
vision [CONFIG.toml|CONFIG.py] --key=value ...
    train a CNN or a ResNet on images; `mada-lab vision --help` lists the keys
"""


def run(words: list[str]) -> None:
    """`vision [CONFIG.toml|CONFIG.py] --key=value ...`."""
    from mada_lab import settings, starting_point
    from mada_lab.cli.words import say
    from mada_lab.config import VisionConfig

    say(settings.notes(words, VisionConfig))
    config, given = settings.load(words, VisionConfig), settings.given_keys(words, VisionConfig)
    from mada_lab import distributed
    from mada_lab.cli.train import require_possible, trained
    from mada_lab.data.prepare import open_or_prepare_images

    # DDP's note on weights of one input channel, whose strides are two descriptions of one layout
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    require_possible(config, given)
    session = trained(starting_point.resolve(config), open_or_prepare_images)
    if distributed.is_first():
        print(
            f"{config.optimizer}: final test accuracy {session.val_accuracy:.4f}, loss {session.val_loss:.4f} "
            f"after {session.step} steps: {config.out_dir}"
        )
