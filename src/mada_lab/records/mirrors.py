"""Mirrors: each row of the record also goes to TensorBoard or Weights & Biases, if the configuration says so.

A mirror is a copy, in the run folder. One that fails is dropped with a warning, and training goes on.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from numbers import Real
from typing import Any

from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.records.listener import Listener
from mada_lab.system.optional import installed
from mada_lab.system.strict_json import flatten

logger = logging.getLogger(__name__)


class TensorBoard:
    """Event files in `tensorboard/` of the run folder; `tensorboard --logdir RUN` shows them.

    The rows of a resumed run hide those of the same steps before.
    """

    def __init__(self, config: RunConfig, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = config.folder / "tensorboard"
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step, flush_secs=10)
        self.close = self._writer.close

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, x in numbers.items():
            self._writer.add_scalar(name, x, step)


class WeightsAndBiases:
    """A run in `wandb/` of the run folder, without an account or a network; `wandb sync` uploads it.

    The environment variable WANDB_MODE overrides that. A resumed run is another run of the same group.
    """

    def __init__(self, config: RunConfig, first_step: int) -> None:
        import wandb

        name = config.folder.resolve().name
        self._run: Any = wandb.init(
            project="mada-lab",
            name=name,
            group=name,
            dir=config.folder,
            config=asdict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


#: By name: what opens a mirror of a run at its first step, with methods `write` and `close`.
MIRRORS: dict[str, Callable[[RunConfig, int], Any]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def requested(words: str) -> list[str]:
    """The mirrors that the key `mirror` names. Raises ConfigError if a mirror is unknown, or its package is missing."""
    names = [name for word in words.split(",") if (name := word.strip()) not in ("", "none")]
    for name in names:
        if name not in MIRRORS:
            what = f"expected {', '.join(('none', *MIRRORS))}, or several with commas, got {name}; correct it"
            raise ConfigError(f"mirror, in key mirror: {what}")
        if not installed(name):
            what = f"expected the package {name} for it, got none; `pip install {name}`, or set it to none"
            raise ConfigError(f"mirror, in key mirror: {what}")
    return list(dict.fromkeys(names))


@contextmanager
def mirrored(config: RunConfig, listen: Listener) -> Iterator[Listener]:
    """Yields a listener that passes on to `listen`, and writes the mirrors of `config`. Raises as `requested`."""
    mirrors = Mirrors(config, requested(config.mirror), listen)
    try:
        yield mirrors
    finally:
        mirrors.close()


class Mirrors:
    """Passes a run's rows on to its mirrors. They are opened at the first row: only then the folder is the run's."""

    def __init__(self, config: RunConfig, names: list[str], listen: Listener) -> None:
        self._config, self._waiting, self._listen = config, names, listen
        self._open: dict[str, Any] = {}
        self.step = listen.step

    def row(self, row: dict[str, Any]) -> None:
        self._listen.row(row)
        for name in self._waiting:
            self._guarded(name, partial(self._begin, name, row["step"]))
        self._waiting = []
        for name, mirror in list(self._open.items()):
            self._guarded(name, partial(mirror.write, row["step"], numbers(row)))

    def close(self) -> None:
        for name, mirror in list(self._open.items()):
            self._guarded(name, mirror.close)
        self._open = {}

    def _begin(self, name: str, step: int) -> None:
        self._open[name] = MIRRORS[name](self._config, step)

    def _guarded(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a mirror is foreign code, and no reason to lose a run
            self._open.pop(name, None)
            logger.warning("mirror %s: dropped, as it failed: %s: %s", name, type(error).__name__, error)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row; those of a group get names like `coefficients/beta1`."""
    flat = {key.replace(".", "/", 1): x for key, x in flatten(dict(row)).items()}
    return {name: float(x) for name, x in flat.items() if isinstance(x, Real) and name != "step"}
