"""What runs have come to, in numbers: the summary of each, or its latest rows while it has none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mada_lab.records.run_record import Run


@dataclass(frozen=True)
class Outcome:
    """The headline numbers of one run.

    A loss is None where nothing was measured, and NaN where the measurement was not finite.

    Attributes:
        optimizer: Its name.
        steps: Optimizer steps done.
        train_loss: The final training loss.
        val_loss: The final validation loss.
        best_val_loss: The lowest validation loss.
        val_accuracy: The final accuracy on the validation set, in [0, 1]; None where the task has none.
        seconds: Time since the start of training, evaluations included.
        peak_memory: The most memory ever allocated, in bytes.
    """

    optimizer: str
    steps: int
    train_loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    seconds: float | None
    peak_memory: float | None
    val_accuracy: float | None = None

    @property
    def milliseconds_per_step(self) -> float | None:
        """Time over steps; None before the first step."""
        return 1000 * self.seconds / self.steps if self.seconds is not None and self.steps else None


def outcome(run: Run) -> Outcome:
    """The outcome of a run that has ended, or what it is so far."""
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
    # Null in a summary may mean either; whether the loss was ever measured tells one from the other.
    return math.nan if value is None and values else value


def _best(run: Run) -> float | None:
    best: float | None = (run.summary or {}).get("best_val_loss")
    finite = [value for value in run.series("val_loss")[1] if math.isfinite(value)]
    return min(finite, default=None) if best is None else best


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs under names that tell them apart: where folders have one name, their parents' come in front."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else replace(run, name=_long_name(run)) for run in runs]


def _long_name(run: Run) -> str:
    return f"{run.folder.resolve().parent.name}/{run.name}"
