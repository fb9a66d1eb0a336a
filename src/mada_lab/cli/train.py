"""`mada-lab train`."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mada_lab.config import RunConfig

USAGE = """\
train [CONFIG.toml] --key=value ...
    train a GPT; `mada-lab train --help` lists the keys
"""


def run(words: list[str]) -> None:
    """`train [CONFIG.toml] --key=value ...`."""
    from mada_lab import settings

    config = settings.load(words)
    from mada_lab import distributed, starting_point
    from mada_lab.data.prepare import open_or_prepare

    config, is_first = starting_point.resolve(config), distributed.is_first()
    require_optimizer(config, shown=is_first)
    if config.parallel != "ddp" and not distributed.started_by_torchrun():
        print(
            f"note: one process, so that parallel={config.parallel} has no effect; see docs/distributed.md",
            file=sys.stderr,
        )
    session = trained(config, open_or_prepare)
    if is_first:
        print(
            f"{config.optimizer}: final validation loss {session.val_loss:.4f} after {session.step} steps: "
            f"{config.out_dir}"
        )


def trained(config: RunConfig, open_data: Callable[[str, Path], Any]) -> Any:
    """The session of a run that is done, on the data that `open_data` opens by name and folder; of any processes."""
    from mada_lab import distributed
    from mada_lab.loop import train as train_model
    from mada_lab.mirror import mirrored
    from mada_lab.progress import ProgressBar

    is_first = distributed.is_first()
    with distributed.group(config), ProgressBar(config.max_iters, config.optimizer, shown=is_first) as bar:
        with distributed.one_by_one():
            data = open_data(config.dataset, Path(config.data_dir))
        with mirrored(config, bar) if is_first else nullcontext(bar) as listen:
            return train_model(config, data, listen)


def require_optimizer(config: RunConfig, shown: bool = True) -> None:
    """Raises ConfigError unless optimizer and mirrors can be had; notes the keys without effect, if `shown`."""
    from mada_lab import optimizers
    from mada_lab.mirror import requested

    optimizers.require_known(config.optimizer)
    requested(config.mirror)
    unused = optimizers.without_effect(config)
    if unused and shown:
        print(f"note: {config.optimizer} has no {', '.join(unused)}: these keys have no effect", file=sys.stderr)
