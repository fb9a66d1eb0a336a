"""The results of runs: from the summary of each, or from its rows while it has none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mada_lab.records.run_record import Run


@dataclass(frozen=True)
class Outcome:
    """The results of one run. A loss is None if it was not measured, and NaN if it was not finite."""

    optimizer: str  #: its name
    steps: int  #: optimizer steps done
    train_loss: float | None  #: the final training loss
    val_loss: float | None  #: the final validation loss
    best_val_loss: float | None  #: the lowest validation loss
    seconds: float | None  #: time since the start of training, evaluations included
    peak_memory: float | None  #: the peak memory, in bytes
    val_accuracy: float | None = None  #: the final validation accuracy, in [0, 1]; None if the task has none

    @property
    def milliseconds_per_step(self) -> float | None:
        """None before the first step."""
        return 1000 * self.seconds / self.steps if self.seconds is not None and self.steps else None


def outcome(run: Run) -> Outcome:
    """The results of a run, so far if it has not ended."""
    summary, manifest = run.summary or {}, run.manifest
    last = run.rows[-1] if run.rows else {"step": 0}
    optimizer = summary.get("optimizer") or manifest.get("optimizer") or manifest.get("config", {}).get("optimizer")
    return Outcome(
        optimizer=str(optimizer or "not recorded"),
        steps=int(summary.get("steps") or last["step"]),
        train_loss=_final(run, "train_loss"),
        val_loss=_final(run, "val_loss"),
        best_val_loss=_best(run),
        seconds=summary.get("seconds", last.get("seconds")),
        peak_memory=summary.get("peak_memory_bytes"),
        val_accuracy=_final(run, "val_accuracy"),
    )


def _final(run: Run, key: str) -> float | None:
    _, values = run.series(key)
    if run.summary is None:
        return values[-1] if values else None
    value: float | None = run.summary.get(f"final_{key}")
    # null in a summary means not measured, or not finite: then there are measurements
    return math.nan if value is None and values else value


def _best(run: Run) -> float | None:
    best: float | None = (run.summary or {}).get("best_val_loss")
    finite = [value for value in run.series("val_loss")[1] if math.isfinite(value)]
    return min(finite, default=None) if best is None else best


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs with distinct names: folders of one name get the names of their parents in front."""
    names = [run.name for run in runs]
    long = [f"{run.folder.resolve().parent.name}/{run.name}" for run in runs]
    return [x if names.count(x.name) == 1 else replace(x, name=name) for x, name in zip(runs, long, strict=True)]
