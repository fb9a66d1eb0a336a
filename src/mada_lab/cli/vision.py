"""`mada-lab vision`."""

import warnings

USAGE = """\
vision [CONFIG.toml|CONFIG.py] --key=value ...
    train a CNN or a ResNet on images; `mada-lab vision --help` lists the keys
"""


def run(words: list[str]) -> None:
    """`vision [CONFIG.toml|CONFIG.py] --key=value ...`."""
    from mada_lab.cli.words import say
    from mada_lab.config import parsing
    from mada_lab.config.keys import VisionConfig
    from mada_lab.training import coefficients_from

    say(parsing.notes(words, VisionConfig))
    config, given = parsing.load(words, VisionConfig), parsing.given_keys(words, VisionConfig)
    from mada_lab.cli.train import require_possible, trained
    from mada_lab.compute import world
    from mada_lab.data.prepare import open_or_prepare_images

    # DDP's note on weights of one input channel, whose strides are two descriptions of one layout
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    require_possible(config, given)
    session = trained(coefficients_from.resolve(config), open_or_prepare_images)
    if world.is_first():
        print(
            f"{config.optimizer}: final test accuracy {session.val_accuracy:.4f}, loss {session.val_loss:.4f} "
            f"after {session.step} steps: {config.out_dir}"
        )
