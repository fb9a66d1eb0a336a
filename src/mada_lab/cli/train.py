"""`mada-lab train`."""

import sys
from pathlib import Path

USAGE = """\
train [CONFIG.toml] --key=value ...
    train a GPT; `mada-lab train --help` lists the keys
"""


def run(words: list[str]) -> None:
    """`train [CONFIG.toml] --key=value ...`."""
    from mada_lab import settings

    config = settings.load(words)
    from mada_lab import optimizers, starting_point
    from mada_lab.data.prepare import open_or_prepare
    from mada_lab.loop import train as train_model
    from mada_lab.progress import ProgressBar

    config = starting_point.resolve(config)
    optimizers.require_known(config.optimizer)
    unused = optimizers.without_effect(config)
    if unused:
        print(f"note: {config.optimizer} has no {', '.join(unused)}: these keys have no effect", file=sys.stderr)
    corpus = open_or_prepare(config.dataset, Path(config.data_dir))
    with ProgressBar(config.max_iters, config.optimizer) as bar:
        session = train_model(config, corpus, bar)
    print(
        f"{config.optimizer}: final validation loss {session.val_loss:.4f} after {session.step} steps: {config.out_dir}"
    )
