"""Mirrors: each row of the record goes to TensorBoard or Weights & Biases too, where the configuration says so.

The record is what counts. A mirror holds copies, in the run folder; one that fails is dropped with a warning, and
training goes on.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from numbers import Real
from typing import Any, Protocol

from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.records.listener import Listener
from mada_lab.system.optional import installed
from mada_lab.system.strict_json import flatten

logger = logging.getLogger(__name__)


class Mirror(Protocol):
    """What takes the numbers of a row."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Takes what a row says of `step`."""

    def close(self) -> None:
        """Brings all of it to where it goes."""


class TensorBoard:
    """Event files in `tensorboard/` of the run folder; `tensorboard --logdir RUN` shows them.

    A resumed run shadows, from its first row on, what the run before it had written.
    """

    def __init__(self, config: RunConfig, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = config.folder / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=first_step, flush_secs=10)  # type: ignore[no-untyped-call]

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, x in numbers.items():
            self._writer.add_scalar(name, x, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._writer.close()  # type: ignore[no-untyped-call]


class WeightsAndBiases:
    """A run in `wandb/` of the run folder, without an account or a network; `wandb sync` uploads it.

    The environment variable WANDB_MODE, if set, says otherwise. A resumed run is another one, in the same group.
    """

    def __init__(self, config: RunConfig, first_step: int) -> None:
        import wandb

        folder = config.folder
        self._run: Any = wandb.init(
            project="mada-lab",
            name=folder.resolve().name,
            group=folder.resolve().name,
            dir=config.out_dir,
            config=asdict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


MIRRORS: dict[str, Callable[[RunConfig, int], Mirror]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def requested(words: str) -> list[str]:
    """The mirrors that the key `mirror` names.

    Raises:
        ConfigError: There is no such mirror, or the package that it needs is missing.
    """
    names = [name for word in words.split(",") if (name := word.strip()) not in ("", "none")]
    for name in names:
        if name not in MIRRORS:
            known = ", ".join(("none", *MIRRORS))
            raise ConfigError(
                f"mirror, in key mirror: expected {known}, or several with commas, got {name}; correct it"
            )
        if not installed(name):
            what = f"expected the package {name} for it, got none; `pip install {name}`, or set it to none"
            raise ConfigError(f"mirror, in key mirror: {what}")
    return list(dict.fromkeys(names))


@contextmanager
def mirrored(config: RunConfig, listen: Listener) -> Iterator[Listener]:
    """`listen`, and what writes the mirrors that `config` names.

    Raises:
        ConfigError: A mirror can't be had.
    """
    mirrors = Mirrors(config, requested(config.mirror), listen)
    try:
        yield mirrors
    finally:
        mirrors.close()


class Mirrors:
    """Listens to a run, and hands each row on. Mirrors are opened at the first: by then the folder is the run's."""

    def __init__(self, config: RunConfig, names: list[str], listen: Listener) -> None:
        self._config, self._waiting, self._listen = config, names, listen
        self._open: dict[str, Mirror] = {}

    def step(self, done: int) -> None:
        self._listen.step(done)

    def row(self, row: dict[str, Any]) -> None:
        self._listen.row(row)
        step = row["step"]
        for name in self._waiting:
            self._guarded(name, lambda name=name: self._open.update({name: MIRRORS[name](self._config, step)}))
        self._waiting = []
        for name, mirror in list(self._open.items()):
            self._guarded(name, lambda mirror=mirror: mirror.write(step, numbers(row)))

    def close(self) -> None:
        for name, mirror in list(self._open.items()):
            self._guarded(name, mirror.close)
        self._open = {}

    def _guarded(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a mirror is foreign code, and no reason to lose a run
            self._open.pop(name, None)
            logger.warning("mirror %s: dropped, as it failed: %s: %s", name, type(error).__name__, error)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, those of a group as `coefficients/beta1`; what is no number is left out."""
    found: dict[str, float] = {}
    for key, value in row.items():
        named = {f"{key}/{name}": x for name, x in flatten(value).items()} if isinstance(value, dict) else {key: value}
        found |= {name: float(x) for name, x in named.items() if isinstance(x, Real) and name != "step"}
    return found
