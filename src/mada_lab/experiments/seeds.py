"""Groups of runs that differ in their seed: their folders, their curves, their mean and standard deviation."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from mada_lab.plots.seeds import Band
from mada_lab.records.run_record import MANIFEST, Run, Series, read_run

NOTHING = "-"


def run_name(group: str, seed: int) -> str:
    """Name of the folder of a run."""
    return f"{group}_seed={seed}"


def finished(folder: Path) -> Run | None:
    """The run in `folder`; None if there is none, or it has not finished. Raises ConfigError if it is malformed."""
    run = read_run(folder) if (folder / MANIFEST).exists() else None
    return run if run is not None and run.summary is not None else None


def final_loss(run: Run, which: str) -> float:
    """The final "training" or "validation" loss; NaN if it is not finite, or was not measured."""
    loss = (run.summary or {}).get({"training": "final_train_loss", "validation": "final_val_loss"}[which])
    return math.nan if loss is None else float(loss)


def band(curves: Sequence[Series]) -> Band:
    """The curves of a group, at the steps that all of them have."""
    values = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted(set.intersection(*(set(x) for x in values))) if values else []
    return steps, np.array([[x[step] for step in steps] for x in values])


def mean_sd(values: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation of the finite values, in words; "-" if there is none."""
    known = [x for x in values if math.isfinite(x)]
    if not known:
        return NOTHING
    return f"{fmean(known):{sign}.4f}" + (f" ± {stdev(known):.4f}" if len(known) > 1 else "")
