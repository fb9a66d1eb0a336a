"""Published logs of training runs, read as records of runs, so that reports and figures show them like runs."""

import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from mada_lab.errors import ConfigError
from mada_lab.records.run_record import Json, Run
from mada_lab.reports.published_tables import GRID, LOSSES, TRAJECTORY, WIDTH, LogTable, read_tables


def read_published(folder: Path) -> list[Run]:
    """The runs in `folder`, one per trajectory (`published_tables`).

    The files repeat a loss on every line until the next evaluation; the record has it once, where it was measured.
    A run whose coefficients never move learns nothing, and its record has no coefficients.
    Raises ConfigError if there is no such file, or one is malformed.
    """
    tables = read_tables(folder)
    trajectories = [table for table in tables if table.has(TRAJECTORY)]
    if not trajectories:
        what = f"expected CSV with the columns {', '.join(TRAJECTORY)}, or text of {WIDTH} columns without a header"
        grids = sum(table.has(GRID) for table in tables)
        others = f"{grids} files of a grid, which `mada-lab grid` draws" if grids else "none"
        raise ConfigError(f"published logs, {folder}: {what}, got {others}; name the folder that holds them")
    names = _names([table.path for table in trajectories])
    return [_run(name, table) for name, table in zip(names, trajectories, strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the files without their common first words, with the folder's name where names are equal."""
    words = [path.stem.split("_") for path in paths]
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))))
    names = ["_".join(each[shared:] if len(paths) > 1 else each) or "_".join(each) for each in words]
    return [
        f"{name}_{path.parent.name}" if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)
    ]


def _run(name: str, table: LogTable) -> Run:
    lines = list(table.rows.values())
    coefficients = [q for q in table.columns if q not in TRAJECTORY]
    moving = [q for q in coefficients if any(line[q] != lines[0][q] for line in lines)]
    rows, before = [], [math.nan, math.nan]
    for line in lines:
        row: Json = {"step": int(line["step"])}
        losses = [line[key] for key in LOSSES]
        if losses != before:
            row |= {key: line[key] for key in LOSSES if math.isfinite(line[key])}
        if moving:
            row["coefficients"] = {q: line[q] for q in coefficients}
        rows.append(row)
        before = losses
    start, end = ({q: line[q] for q in coefficients} for line in (lines[0], lines[-1]))
    manifest: Json = {"optimizer": f"learns {', '.join(moving)}" if moving else "learns nothing"}
    manifest |= {"method": {"description": "Published log", "learned": moving, "lr": []}}
    manifest |= {"config": {"source": table.path.name, **start}, "initial_coefficients": start}
    return Run(name, table.path.parent, manifest, rows, _summary(lines, end))


def _summary(lines: list[dict[str, float]], end: dict[str, float]) -> dict[str, Any]:
    return {
        "steps": int(lines[-1]["step"]),
        "final_coefficients": end,
        "final_train_loss": lines[-1]["train_loss"],
        "final_val_loss": lines[-1]["val_loss"],
        "best_val_loss": min((x for line in lines if math.isfinite(x := line["val_loss"])), default=None),
    }
