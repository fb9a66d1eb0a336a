"""The results of the runs of a bench, from their records alone.

A diverged run, one without a finite final loss, counts with its task's ceiling: the highest finite final loss of any
run there, or the loss of the untrained network if that is higher. A finite final loss above the untrained network's is
kept, and the run is marked as diverged too.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np

from mada_lab.experiments.seeds import band, final_loss, finished, run_name
from mada_lab.records.run_record import Run, Series


@dataclass(frozen=True)
class Cell:
    """A group of runs on a task that differ in their seed."""

    name: str  #: the name of the group
    losses: list[float]  #: final validation losses, in nats; NaN for a diverged run
    curves: list[Series] = field(default_factory=list)  #: steps and validation losses of each run that is there
    step_seconds: list[float] = field(default_factory=list)  #: time of a step, by run, evaluations left out
    missing: int = 0  #: runs that aren't there, or failed for another reason than their numbers
    train_losses: list[float] = field(default_factory=list)  #: final training losses, in the order of `losses`

    @property
    def diverged(self) -> int:
        """Runs without a finite final loss."""
        return sum(not math.isfinite(x) for x in self.losses)


def _step_seconds(run: Run) -> float | None:
    times = [row["speed"]["step_seconds"] for row in run.rows if (row.get("speed") or {}).get("step_seconds")]
    return median(times) if times else None


@dataclass(frozen=True)
class Table:
    """The cells of one task."""

    task: str
    steps: int  #: length of its runs
    cells: Mapping[str, Cell]  #: by name of the group
    language: bool = False  #: whether it models text
    matrices: bool = True  #: whether its network has hidden matrices

    @property
    def untrained(self) -> float:
        """The validation loss before the first step, at most; NaN if no run shows it."""
        first = [values[0] for cell in self.cells.values() for steps, values in cell.curves if steps and steps[0] == 0]
        return max((x for x in first if math.isfinite(x)), default=math.nan)

    @property
    def ceiling(self) -> float:
        """The loss that a diverged run counts with."""
        finite = [x for cell in self.cells.values() for x in cell.losses if math.isfinite(x)]
        return max((x for x in [*finite, self.untrained] if math.isfinite(x)), default=math.nan)

    def has(self, name: str) -> bool:
        """Whether there is a run of the group, diverged ones included."""
        return name in self.cells and bool(self.cells[name].losses)

    def values(self, name: str) -> list[float]:
        """Final losses, diverged runs at the ceiling."""
        return [x if math.isfinite(x) else self.ceiling for x in self.cells[name].losses]

    def mean(self, name: str) -> float:
        """Mean of `values`; NaN without a run."""
        return fmean(self.values(name)) if self.has(name) else math.nan

    def sd(self, name: str) -> float:
        """Standard deviation of `values` over seeds; NaN with fewer than two."""
        return stdev(self.values(name)) if self.has(name) and len(self.values(name)) > 1 else math.nan

    def bad(self, name: str) -> int:
        """Diverged runs: no finite loss, or one above the untrained network's."""
        return sum(not math.isfinite(x) or x > self.untrained for x in self.cells[name].losses)

    def curve(self, name: str) -> Series:
        """The mean validation curve, at the steps that all runs have; what isn't finite counts as the ceiling."""
        cell, ceiling = self.cells[name], self.ceiling
        steps, losses = band(cell.curves)
        lost = [ceiling] * (len(cell.losses) - len(cell.curves))
        return steps, [fmean([*x, *lost]) for x in np.where(np.isfinite(losses), losses, ceiling).T.tolist()]

    def steps_to(self, name: str, target: float) -> float:
        """When the mean curve first is at `target` or below, as a part of the run; inf if never, NaN without runs."""
        return crossing(self.curve(name), target) / self.steps if self.has(name) else math.nan


def crossing(curve: Series, target: float) -> float:
    """The first step, interpolated between evaluations, at which a curve is at `target` or below; inf if never."""
    steps, values = curve
    for i, (step, x) in enumerate(zip(steps, values, strict=True)):
        if x <= target:
            if i == 0:
                return float(step)
            before, above = steps[i - 1], values[i - 1]
            return before + (step - before) * (above - target) / (above - x)
    return math.inf


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers; NaN if there are none, or one is NaN, and inf if one is inf."""
    known = list(values)
    return statistics.geometric_mean(known) if known else math.nan


def best(table: Table, names: Iterable[str]) -> str | None:
    """The group of the lowest mean loss; None if none has a run."""
    known = [name for name in names if table.has(name)]
    return min(known, key=table.mean, default=None)


def worst_over(table: Table, names: Sequence[str], against: Sequence[str]) -> float:
    """The highest mean loss among `names`, over the lowest among `against`; NaN unless all of them are there."""
    if not names or not all(table.has(name) for name in (*names, *against)):
        return math.nan
    return max(map(table.mean, names)) / min(map(table.mean, against))


def is_better(table: Table, one: str, other: str) -> bool:
    """Whether `one` has the lower mean loss by more than the larger of both standard deviations."""
    spread = max(x if math.isfinite(x) else 0.0 for x in (table.sd(one), table.sd(other)))
    return table.mean(one) < table.mean(other) - spread


def read_cells(folder: Path, groups: Mapping[str, Sequence[int]], errors: Mapping[str, str]) -> dict[str, Cell]:
    """The cells of a task by name, from the seeds of each group and the error of each run that failed."""
    return {name: _cell(name, [folder / run_name(name, x) for x in seeds], errors) for name, seeds in groups.items()}


def _cell(name: str, folders: Sequence[Path], errors: Mapping[str, str]) -> Cell:
    diverged = [folder for folder in folders if is_divergence(errors.get(folder.name, ""))]
    runs = [finished(folder) for folder in folders if folder not in diverged]
    there = [run for run in runs if run is not None]
    lost = [math.nan] * len(diverged)
    losses, train = ([final_loss(run, which) for run in there] + lost for which in ("validation", "training"))
    times = [t for run in there if (t := _step_seconds(run)) is not None]
    return Cell(name, losses, [run.series("val_loss") for run in there], times, len(runs) - len(there), train)


def is_divergence(error: str) -> bool:
    """Whether a run failed by its numbers."""
    return error.startswith(("NumericsError", "validation loss:"))
