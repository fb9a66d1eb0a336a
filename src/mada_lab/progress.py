"""The progress bar: where the run is, its losses, and the coefficients as they move."""

import logging
import sys
from typing import Any, Protocol, Self

from tqdm import tqdm

from mada_lab.errors import visible


class Warnings(logging.Handler):
    """Prints warnings on standard error, each in one line, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one."""
        tqdm.write(f"{record.levelname.lower()}: {visible(record.getMessage())}", file=sys.stderr)


class Listener(Protocol):
    """What follows a run from outside of the loop."""

    def step(self, done: int) -> None:
        """`done` optimizer steps are done."""

    def row(self, row: dict[str, Any]) -> None:
        """A line was added to the record."""


class CountBar:
    """A bar on standard error for work that tells how much is done; nothing appears for what takes a second."""

    def __init__(self, name: str) -> None:
        self._bar = tqdm(desc=name, unit_scale=True, dynamic_ncols=True, mininterval=0.5, delay=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()

    def __call__(self, count: int, unit: str) -> None:
        """`count` more are done."""
        self._bar.unit = f" {unit}"
        self._bar.update(count)


class ProgressBar:
    """A bar on standard error, if it is to be shown; without a terminal, tqdm prints lines instead."""

    def __init__(self, steps: int, name: str, shown: bool = True) -> None:
        options = {"dynamic_ncols": True, "mininterval": 0.5, "disable": not shown}
        self._bar = tqdm(total=steps, desc=name, unit="step", **options)
        self._last_val: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()

    def step(self, done: int) -> None:
        """Moves the bar to `done`."""
        self._bar.update(done - self._bar.n)

    def row(self, row: dict[str, Any]) -> None:
        """Shows the losses and the coefficients of `row`."""
        self._last_val = row.get("val_loss", self._last_val)
        shown = {"loss": row.get("train_loss"), "val": self._last_val, **row.get("coefficients", {})}
        text = " ".join(f"{name} {x:.3f}" for name, x in shown.items() if x is not None)
        self._bar.set_postfix_str(text, refresh=False)
