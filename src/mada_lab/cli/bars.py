"""What a person sees while a command works: notes, warnings, and bars with losses and learned coefficients."""

import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm
from tqdm.utils import disp_len

from mada_lab.errors import visible
from mada_lab.system.strict_json import flatten

if TYPE_CHECKING:
    from mada_lab.config.keys import RunConfig

OPTIONS: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.5}
WIDTH = 80
"""Columns, where there is no terminal to ask."""
_LAYOUTS = (
    "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {values}",
    "{desc} {percentage:.0f}% {n_fmt}/{total_fmt} {left} {values}",
    "{percentage:.0f}% {left} {values}",
    "{percentage:.0f}% {values}",
)
_LEAST_BAR = 6
"""A bar of fewer columns says less than the numbers beside it."""
_MOST = 16
"""At most so many coefficients are tried: a run may learn a set of them per tensor."""


def say(notes: Sequence[str]) -> None:
    """Prints notes on standard error, a line each; of several processes, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {visible(note)}", file=sys.stderr)


class Warnings(logging.Handler):
    """Prints warnings on standard error, each in one line, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one."""
        tqdm.write(f"{record.levelname.lower()}: {visible(record.getMessage())}", file=sys.stderr)


class _Bar:
    """A bar on standard error; the end of `with` leaves it as it stands."""

    def __init__(self, bar: tqdm) -> None:  # type: ignore[type-arg]
        self.bar = bar

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


class CountBar(_Bar):
    """A bar for work that tells how much is done; nothing appears for what takes a second."""

    def __init__(self, name: str) -> None:
        super().__init__(tqdm(desc=name, unit_scale=True, delay=1.0, **OPTIONS))

    def __call__(self, count: int, unit: str) -> None:
        """`count` more are done."""
        self.bar.unit = f" {unit}"
        self.bar.update(count)


class FittedBar(tqdm):  # type: ignore[type-arg]
    """A tqdm bar in one line of the terminal, which appears with the first step or value.

    Attributes:
        values: The text after the bar in several lengths, the longest first. The first that fits in any of the layouts
            is shown, in the richest layout that it fits in.
    """

    values: tuple[str, ...] = ("",)

    def _is_empty(self) -> bool:
        return not self.n and self.values == ("",)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows the bar, unless it is empty."""
        if not self._is_empty():
            super().display(msg, pos)

    def close(self) -> None:
        """Leaves the bar as it stands; an empty one leaves no line."""
        self.disable = self.disable or self._is_empty()
        super().close()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm formats, with the layout that fits."""
        found = dict(super().format_dict)
        found |= {"ncols": found.get("ncols") or WIDTH, "left": _left(found)}
        choices = ({**found, "bar_format": layout, "values": x} for x in self.values for layout in _LAYOUTS)
        last = {**found, "bar_format": _LAYOUTS[-1], "values": self.values[-1]}
        return next((x for x in choices if _room(x) >= ("{bar}" in x["bar_format"]) * _LEAST_BAR), last)


def _room(found: dict[str, Any]) -> int:
    """The columns that a layout leaves for the bar."""
    text = tqdm.format_meter(**{**found, "ncols": None, "bar_format": found["bar_format"].replace("{bar}", "")})
    return int(found["ncols"] - disp_len(text))


def _left(found: Mapping[str, Any]) -> str:
    """The time that is left, in at most 3 columns as a rule; once all is done, the time that it took."""
    done, total, elapsed = found["n"], found["total"], found["elapsed"]
    if total and done >= total:
        return duration(elapsed)
    rate = found.get("rate") or ((done - (found.get("initial") or 0)) / elapsed if elapsed else 0.0)
    return duration((total - done) / rate) if total and rate else "?"


def duration(seconds: float) -> str:
    """A time in its largest unit that makes two digits or fewer of it: 99s, 99m, 99h, 5d."""
    for unit, size in (("s", 1), ("m", 60), ("h", 3600)):
        if seconds < 99.5 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


class ProgressBar(_Bar):
    """A bar over the steps of a run, if it is to be shown; without a terminal, tqdm prints lines instead."""

    def __init__(self, steps: int, name: str, shown: bool = True) -> None:
        super().__init__(FittedBar(total=steps, desc=name, unit="step", disable=not shown, **OPTIONS))
        self._last_val: float | None = None
        self._start: dict[str, float] = {}

    def step(self, done: int) -> None:
        """Moves the bar to `done`."""
        self.bar.update(done - self.bar.n)

    def row(self, row: dict[str, Any]) -> None:
        """Shows the losses and the learned coefficients of `row`, as applied."""
        self._last_val = row.get("val_loss", self._last_val)
        losses = {"loss": row.get("train_loss"), "val": self._last_val}
        learned = flatten(row.get("hypergradients", {})).keys()
        values = {name: x for name, x in flatten(row.get("coefficients", {})).items() if name in learned}
        self._start = {**values, **self._start}
        self.bar.values = texts({name: x for name, x in losses.items() if x is not None}, values, self._start)


class SweepBar(_Bar):
    """A bar over the points of a command, with the step of the point that this worker trains."""

    def __init__(self, command: str) -> None:
        super().__init__(FittedBar(desc=command, unit="point", **OPTIONS))
        self._name, self._steps, self._failed = "", 0, 0

    def standing(self, settled: int, failed: int, size: int) -> None:
        """Moves the bar to what all workers have settled."""
        self.bar.total, self._failed = size, failed
        if self.bar.n == 0:
            self.bar.initial = settled  # done before: no part of this worker's rate
        self.bar.n = settled
        self.bar.refresh()

    def begins(self, name: str, config: "RunConfig") -> None:
        """Names the point that is trained."""
        self._name, self._steps = visible(name), config.max_iters

    def step(self, done: int) -> None:
        """Shows the step of the point that is trained."""
        failed, name = f", {self._failed} failed" if self._failed else "", self._name
        names = (
            name if len(name) <= length else f"{name[: length - 2]}.." for length in (len(name), 48, 32, 24, 16, 8)
        )
        self.bar.values = tuple(f"{name} {done}/{self._steps}{failed}" for name in names)
        self.bar.update(0)

    def told(self, message: str) -> None:
        """Prints a line above the bar."""
        self.bar.write(visible(message), file=sys.stderr)


def texts(losses: Mapping[str, float], values: Mapping[str, float], start: Mapping[str, float]) -> tuple[str, ...]:
    """Losses and learned coefficients in several lengths, the longest first.

    Numbers get shorter, and then the coefficients that have moved least since `start` are left out, one by one.
    """
    moved = sorted(values, key=lambda name: _change(start[name], values[name]), reverse=True)
    kept = [{name: values[name] for name in values if name in moved[:k]} for k in range(min(len(moved), _MOST), -1, -1)]
    wide = _joined(losses, 5) + _joined(kept[0], 4)
    return (" ".join(wide), *(" ".join(_joined(losses, 4) + _joined(some, 3)) for some in kept))


def _joined(numbers: Mapping[str, float], width: int) -> list[str]:
    return [f"{name} {rate(x) if name.split('.')[-1] == 'lr' else short(x, width)}" for name, x in numbers.items()]


def _change(start: float, now: float) -> float:
    """How far a coefficient has come from its start, over the larger of both."""
    return abs(now - start) / max(abs(now), abs(start)) if now != start else 0.0


def short(x: float, width: int) -> str:
    """A number with as many decimals as fit in `width` columns, without a leading 0: .912, 1.83, 10.8."""
    if not math.isfinite(x):
        return f"{x:.0f}"
    for decimals in range(width, -1, -1):
        text = f"{x:.{decimals}f}"
        if text.removeprefix("-").startswith("0."):
            text = text.replace("0.", ".", 1)
        if len(text) <= width:
            return text
    return f"{x:.0e}".replace("e+0", "e")


def rate(x: float) -> str:
    """A learning rate, the one coefficient that is not of order one: 2.4e-3."""
    return f"{x:.1e}".replace("e-0", "e-")
