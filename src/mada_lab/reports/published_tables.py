"""The authors' log files as tables: CSV with a header, or text without one.

A trajectory has a row per logged step of one run. A grid has a row per finished run, with its initial coefficients.
"""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mada_lab.errors import ConfigError

LOSSES = ("train_loss", "val_loss")
#: The columns that each kind of file must have; its other columns are coefficients.
TRAJECTORY = ("step", *LOSSES)
GRID = ("initial_beta1", "initial_beta2", *LOSSES)
#: The columns of text without a header, as the authors' scripts write them.
COEFFICIENTS = ("beta1", "beta2", "beta3", "rho", "c", "gamma")
WIDTH = len(COEFFICIENTS) + len(LOSSES)
#: Optimizer steps between rows of such a trajectory: the published ones log every 50 micro-batches, 5 to a step.
STEPS_PER_ROW = 50 // 5
#: The published files lie up to two folders below the one that is named.
PLACES = ("*", "*/*", "*/*/*")


@dataclass(frozen=True)
class LogTable:
    """One file."""

    path: Path
    columns: tuple[str, ...]
    rows: dict[int, dict[str, float]]  #: by line of the file, the values of the row by column; an empty loss is NaN

    def has(self, columns: Iterable[str]) -> bool:
        """Whether all of `columns` are there."""
        return set(columns) <= set(self.columns)


def read_tables(folder: Path) -> list[LogTable]:
    """The trajectories and grids in `folder` and up to two folders below. Raises ConfigError for a malformed file."""
    paths = (path for place in PLACES for path in folder.glob(place))
    paths = sorted(path for path in paths if path.suffix in (".csv", ".txt") and path.is_file())
    return [table for path in paths if (table := _table(path)) is not None]


def malformed(where: str, expected: str, got: str) -> ConfigError:
    """The error about a published log; `where` is the file, and the line if it is one line's."""
    return ConfigError(f"published log, {where}: expected {expected}, got {got}; restore it, or take it out")


def _table(path: Path) -> LogTable | None:
    lines = list(_lines(path))
    if not lines:
        raise malformed(str(path), "rows", "none")
    if any(_number(word) is not None for word in lines[0][1]):
        return _without_header(path, lines)
    number, head = lines[0][0], tuple(lines.pop(0)[1])
    if not ({*TRAJECTORY} <= {*head} or {*GRID} <= {*head}):
        if path.suffix == ".csv":
            return None
        expected = f"{WIDTH} numbers, or a header with {', '.join(TRAJECTORY)} or {', '.join(GRID)}"
        raise malformed(f"{path}, line {number}", expected, repr(", ".join(head)[:40]))
    if len({*head}) < len(head):
        raise malformed(f"{path}, line {number}", "a header of distinct columns", ", ".join(head))
    if not lines:
        raise malformed(str(path), "rows", "none")
    return LogTable(path, head, {i: _row(path, i, head, words) for i, words in lines})


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line that isn't blank: its number and its words."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file, skipinitialspace=True)
            yield from ((reader.line_num, [word.strip() for word in words]) for words in reader if words)
    except (OSError, ValueError, csv.Error) as error:
        raise malformed(str(path), "text in UTF-8 with commas between numbers", str(error)) from error


def _without_header(path: Path, lines: list[tuple[int, list[str]]]) -> LogTable:
    read = [_row(path, i, (*COEFFICIENTS, *LOSSES), words) for i, words in lines]
    if _holds_losses(read):
        rows = [{"step": float(STEPS_PER_ROW * i), **row} for i, row in enumerate(read)]
    else:
        rows = [{f"initial_{key}" if key in COEFFICIENTS else key: x for key, x in row.items()} for row in read]
    return LogTable(path, tuple(rows[0]), dict(zip((i for i, _ in lines), rows, strict=True)))


def _holds_losses(rows: list[dict[str, float]]) -> bool:
    """Whether most rows repeat the losses of the row before, as between two evaluations of a run; no grid does."""
    repeated = [all(a[key] == b[key] for key in LOSSES) for a, b in pairwise(rows)]
    return bool(repeated) and 2 * sum(repeated) >= len(repeated)


def _row(path: Path, line: int, head: tuple[str, ...], words: list[str]) -> dict[str, float]:
    if len(words) != len(head):
        raise malformed(f"{path}, line {line}", f"{len(head)} values", str(len(words)))
    row = {}
    for key, word in zip(head, words, strict=True):
        value = math.nan if key in LOSSES and not word else _number(word)
        whole = key != "step" or (value is not None and value.is_integer())
        if value is None or math.isinf(value) or (math.isnan(value) and word) or not whole:
            expected = "a whole number" if key == "step" else "a finite number"
            raise malformed(f"{path}, line {line}, {key}", expected, repr(word))
        row[key] = value
    return row


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
