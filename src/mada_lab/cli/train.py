"""`mada-lab train`."""

from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mada_lab.cli.words import say
from mada_lab.config import RunConfig
from mada_lab.errors import ConfigError

USAGE = """\
train [CONFIG.toml|CONFIG.py] --key=value ...
    train a GPT; `mada-lab train --help` lists the keys. CONFIG.py is a configuration as nanoGPT and the MADA authors
    have it, read without being run; docs/lab/upstream.md has the table from their keys and flags to ours
"""


def run(words: list[str]) -> None:
    """`train [CONFIG.toml|CONFIG.py] --key=value ...`."""
    from mada_lab import settings

    say(settings.notes(words))
    config, given = settings.load(words), settings.given_keys(words)
    from mada_lab import distributed, starting_point
    from mada_lab.data.prepare import open_or_prepare

    require_possible(config, given)
    config = starting_point.resolve(config)
    session = trained(config, open_or_prepare)
    if distributed.is_first():
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


def require_possible(config: RunConfig, given: Collection[str]) -> None:
    """Raises ConfigError unless optimizer and mirrors can be had, and every key in `given` has an effect."""
    from mada_lab import distributed, optimizers
    from mada_lab.mirror import requested

    optimizers.require_known(config.optimizer)
    optimizers.require_had(config, given)
    optimizers.require_start(config)
    optimizers.require_guarded(config)
    requested(config.mirror)
    for key in ("parallel", "distributed_timeout"):
        if key in given and getattr(config, key) != "ddp" and not distributed.started_by_torchrun():
            what = f"expected several processes, started by torchrun, beside it, got one and {getattr(config, key)}"
            raise ConfigError(f"configuration, key {key}: {what}; leave it out, or see docs/lab/distributed.md")
