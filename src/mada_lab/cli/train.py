"""`mada-lab train`, and what `mada-lab vision` does too."""

import time
from collections.abc import Collection
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mada_lab.cli.bars import ProgressBar, say
from mada_lab.config import parsing
from mada_lab.config.arguments import Arguments
from mada_lab.config.keys import RunConfig, TrainConfig
from mada_lab.errors import ConfigError
from mada_lab.system import files

if TYPE_CHECKING:
    from mada_lab.training.state import TrainState


def arguments() -> Arguments:
    """What may be typed after `train`."""
    return parsing.arguments_of(TrainConfig)


def run(words: list[str]) -> None:
    """`train [CONFIG] --key=value ...`."""
    session = trained(words, TrainConfig)
    if session.world.is_first:
        print(
            f"{session.config.optimizer}: final validation loss {session.val_loss:.4f} after {session.step} steps: "
            f"{session.folder}"
        )


def trained(words: list[str], kind: type[RunConfig]) -> "TrainState":
    """Trains what `[CONFIG] --key=value ...` asks for, on one process or several; returns the finished session."""
    asked = parsing.request(words, kind)
    say(asked.notes)
    config = parsing.configured(asked, kind)
    parsing.require_effect(config, asked.keys)
    from mada_lab.compute import device, world
    from mada_lab.records.mirrors import mirrored
    from mada_lab.tasks.open_data import open_data
    from mada_lab.training import coefficients_from, restarts
    from mada_lab.training.trainer import train

    require_possible(config, asked.keys)
    config, is_first = coefficients_from.resolve(config), world.is_first()
    with (
        ExitStack() as leave,
        world.group(config),
        ProgressBar(config.max_iters, config.optimizer, shown=is_first) as bar,
    ):
        here = world.current(device.choose(config).device)
        config = restarts.continued(config, here)
        with world.one_by_one():
            data = open_data(config)
        if config.out_dir is None:
            fresh = here.broadcast(here.on_first(lambda: fresh_folder(config.dataset)))
            config = replace(config, out_dir=fresh)
            if is_first:  # a run that is refused leaves no folder
                leave.callback(files.remove_empty, [Path(fresh), Path(fresh).parent])
            say([f"the run folder is {config.out_dir}"])
        with mirrored(config, bar) if is_first else nullcontext(bar) as listen:
            return train(config, data, listen)


def fresh_folder(name: str, parent: Path = Path("out")) -> str:
    """Makes a new folder, called by `name` and the time. Raises ConfigError if that fails."""
    stem = parent / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        return str(files.make_fresh_folder(stem))
    except OSError as error:
        what = f"expected a folder that can be made, got {error.strerror}"
        raise ConfigError(f"run folder, in {parent}: {what}; choose another, as --out_dir") from error


def require_possible(config: RunConfig, given: Collection[str]) -> None:
    """Raises ConfigError unless optimizer and mirrors can be had, and every key in `given` has an effect."""
    from mada_lab.compute import world
    from mada_lab.optimizers import catalog
    from mada_lab.pretrained import init_from
    from mada_lab.records.mirrors import requested

    if isinstance(config, TrainConfig):
        init_from.require_there(config.init_from)
    catalog.require_known(config.optimizer)
    catalog.require_had(config, given)
    catalog.require_start(config)
    catalog.require_guarded(config)
    requested(config.mirror)
    if config.init_from == "resume" and config.out_dir is None:
        _refuse_resume(Path("out"))
    for key in ("parallel", "share_matrices", "distributed_timeout"):
        if key in given and getattr(config, key) != "ddp" and not world.started_by_torchrun():
            what = f"expected several processes, started by torchrun, got one and {getattr(config, key)}"
            raise ConfigError(f"configuration, key {key}: {what}; leave it out, or see docs/lab/distributed.md")


def _refuse_resume(parent: Path) -> None:
    """Raises ConfigError: no folder is named to resume from."""
    runs = sorted(parent.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    newest = ", ".join(str(path.parent) for path in runs[:3]) or f"none in {parent}"
    raise ConfigError(
        f"init_from=resume: expected the folder of a run as out_dir, got none; add --out_dir (the newest: {newest})"
    )
