"""`mada-lab train`."""

from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mada_lab.cli.words import say
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError

USAGE = """\
train [CONFIG.toml|CONFIG.py] --key=value ...
    train a GPT; `mada-lab train --help` lists the keys. CONFIG.py is a configuration as nanoGPT and the MADA authors
    have it, read without being run; docs/upstream.md has the table from their keys and flags to ours
"""


def run(words: list[str]) -> None:
    """`train [CONFIG.toml|CONFIG.py] --key=value ...`."""
    from mada_lab.config import parsing

    say(parsing.notes(words))
    config, given = parsing.load(words), parsing.given_keys(words)
    from mada_lab.compute import world
    from mada_lab.data.prepare import open_or_prepare
    from mada_lab.training import coefficients_from

    require_possible(config, given)
    config = coefficients_from.resolve(config)
    session = trained(config, open_or_prepare)
    if world.is_first():
        print(
            f"{config.optimizer}: final validation loss {session.val_loss:.4f} after {session.step} steps: "
            f"{config.out_dir}"
        )


def trained(config: RunConfig, open_data: Callable[[str, Path], Any]) -> Any:
    """The session of a run that is done, on the data that `open_data` opens by name and folder; of any processes."""
    from mada_lab.cli.bars import ProgressBar
    from mada_lab.compute import world
    from mada_lab.records.mirrors import mirrored
    from mada_lab.training.trainer import train as train_model

    is_first = world.is_first()
    with world.group(config), ProgressBar(config.max_iters, config.optimizer, shown=is_first) as bar:
        with world.one_by_one():
            data = open_data(config.dataset, Path(config.data_dir))
        with mirrored(config, bar) if is_first else nullcontext(bar) as listen:
            return train_model(config, data, listen)


def require_possible(config: RunConfig, given: Collection[str]) -> None:
    """Raises ConfigError unless optimizer and mirrors can be had, and every key in `given` has an effect."""
    from mada_lab.compute import world
    from mada_lab.optimizers import catalog
    from mada_lab.records.mirrors import requested

    catalog.require_known(config.optimizer)
    catalog.require_had(config, given)
    catalog.require_start(config)
    catalog.require_guarded(config)
    requested(config.mirror)
    for key in ("parallel", "distributed_timeout"):
        if key in given and getattr(config, key) != "ddp" and not world.started_by_torchrun():
            what = f"expected several processes, started by torchrun, beside it, got one and {getattr(config, key)}"
            raise ConfigError(f"configuration, key {key}: {what}; leave it out, or see docs/distributed.md")
