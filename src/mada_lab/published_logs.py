"""Published logs of training runs, CSV files, read as the records of runs: what draws one draws the other."""

import csv
import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from mada_lab.errors import ConfigError
from mada_lab.record import Json, Run

LOSSES = ("train_loss", "val_loss")
COLUMNS = {"step", *LOSSES}


def read_published(folder: Path) -> list[Run]:
    """The runs in `folder`: one per CSV file that has the columns step, train_loss and val_loss.

    All other columns are coefficients. The files repeat a loss on every line until the next evaluation: only the first
    of equal lines, where it was measured, gets it here. Of a run whose coefficients never move, none are taken over,
    as of any run that learns nothing.

    Raises:
        ConfigError: There is no such file, or one is malformed.
    """
    tables = [(path, _table(path)) for path in sorted(folder.glob("*.csv"))]
    tables = [(path, table) for path, table in tables if set(table[0]) >= COLUMNS]
    if not tables:
        what = f"expected CSV files with the columns {', '.join(sorted(COLUMNS))}, got none"
        raise ConfigError(f"published logs, {folder}: {what}; name the folder that holds them")
    names = _names([path for path, _ in tables])
    return [_run(name, path, table) for name, (path, table) in zip(names, tables, strict=True)]


def _table(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"published log, {path}: expected CSV in UTF-8, got {error}; restore it, or take it out of the folder"
        ) from error


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names, without the words that all begin with."""
    words = [path.stem.split("_") for path in paths]
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))))
    return ["_".join(each[shared:] if len(paths) > 1 else each) or "_".join(each) for each in words]


def _run(name: str, path: Path, table: list[list[str]]) -> Run:
    head, lines = table[0], [_numbers(path, i, table[0], line) for i, line in enumerate(table[1:], 2)]
    if not lines:
        raise ConfigError(f"published log, {path}: expected rows, got none; restore it")
    coefficients = [q for q in head if q not in COLUMNS]
    moving = [q for q in coefficients if any(line[q] != lines[0][q] for line in lines)]
    rows, before = [], [math.nan, math.nan]
    for line in lines:
        row: Json = {"step": int(line["step"])}
        losses = [line[key] for key in LOSSES]
        if losses != before:
            row |= dict(zip(LOSSES, losses, strict=True))
        if moving:
            row["coefficients"] = {q: line[q] for q in coefficients}
        rows.append(row)
        before = losses
    start, end = ({q: line[q] for q in coefficients} for line in (lines[0], lines[-1]))
    manifest: Json = {"optimizer": f"learns {', '.join(moving)}" if moving else "learns nothing"}
    manifest |= {"config": {"source": path.name, **start}, "initial_coefficients": start}
    return Run(name, path.parent, manifest, rows, _summary(lines, end))


def _numbers(path: Path, number: int, head: list[str], line: list[str]) -> dict[str, float]:
    if len(line) != len(head):
        raise _malformed(f"{path}, line {number}", f"{len(head)} values", str(len(line)))
    row: dict[str, float] = {}
    for key, word in zip(head, line, strict=True):
        try:
            row[key] = float(word)
            if key == "step":
                int(row[key])
        except (ValueError, OverflowError) as error:
            raise _malformed(f"{path}, line {number}, {key}", "a number", repr(word)) from error
    return row


def _malformed(where: str, expected: str, got: str) -> ConfigError:
    return ConfigError(f"published log, {where}: expected {expected}, got {got}; restore it")


def _summary(lines: list[dict[str, float]], end: dict[str, float]) -> dict[str, Any]:
    return {
        "steps": int(lines[-1]["step"]),
        "final_coefficients": end,
        "final_train_loss": lines[-1]["train_loss"],
        "final_val_loss": lines[-1]["val_loss"],
        "best_val_loss": min((x for line in lines if math.isfinite(x := line["val_loss"])), default=None),
    }
