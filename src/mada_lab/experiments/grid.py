"""A grid over initial betas, read back: the final losses as surfaces, and in numbers. Without torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mada_lab.errors import ConfigError
from mada_lab.experiments.seeds import NOTHING, final_loss
from mada_lab.plots.contours import LOSSES, Surface, contours
from mada_lab.plots.curves import Floats
from mada_lab.records.outcome import outcome
from mada_lab.records.run_record import Run, read_runs
from mada_lab.reports.html import Figures, Page, Section, Table, Text
from mada_lab.reports.published_tables import GRID, TRAJECTORY, WIDTH, LogTable, malformed, read_tables

#: Optimizers in the order of the rows, the baseline first; others follow.
FIRST = ("adamw", "adam", "hyperadam", "mada")


@dataclass(frozen=True)
class Cell:
    """One run of a grid; a loss is NaN if it isn't finite, or if the run has no summary."""

    optimizer: str
    beta1: float
    beta2: float
    seed: int
    training: float
    validation: float


def read_surfaces(folder: Path) -> list[Surface]:
    """The surfaces of a sweep or of the authors' published grids in `folder`. Raises ConfigError if there are none."""
    return surfaces(_runs(folder) or _published(folder))


def surfaces(cells: Sequence[Cell]) -> list[Surface]:
    """The surface of each optimizer."""
    names = sorted({cell.optimizer for cell in cells}, key=lambda x: (FIRST.index(x) if x in FIRST else len(FIRST), x))
    return [_surface(name, [cell for cell in cells if cell.optimizer == name]) for name in names]


def _runs(folder: Path) -> list[Cell]:
    runs = read_runs(folder)
    cells = []
    for run in runs:
        config = run.manifest.get("config", {})
        betas = [config.get("beta1"), config.get("beta2")]
        if None not in betas:
            losses = (final_loss(run, which) for which in LOSSES)
            cells.append(Cell(outcome(run).optimizer, *betas, config.get("seed", 0), *losses))
    places = {(cell.optimizer, cell.beta1, cell.beta2, cell.seed) for cell in cells}
    if runs and (not cells or len(places) < len(cells)):
        only = ", and optimizer and seed alone beside them" if cells else ""
        what = f"expected a sweep over beta1 and beta2{only}, got one over {', '.join(_varied(runs)) or 'no key'}"
        raise ConfigError(f"grid, {folder}: {what}; pass the folder of such a sweep")
    return cells


def _varied(runs: Sequence[Run]) -> list[str]:
    configs = [run.manifest.get("config", {}) for run in runs]
    return [key for key in configs[0] if key != "out_dir" and any(x.get(key) != configs[0][key] for x in configs)]


def _published(folder: Path) -> list[Cell]:
    """The rows of the published grids in `folder`, a file or several for each optimizer."""
    tables = read_tables(folder)
    grids = [table for table in tables if table.has(GRID)]
    if not grids:
        what = "expected run folders with beta1 and beta2 in their configuration"
        what = f"{what}, CSV with the columns {', '.join(GRID)}, or text of {WIDTH} columns without a header"
        others = sum(table.has(TRAJECTORY) for table in tables)
        found = f"{others} trajectories, which `mada-lab report --published` draws" if others else "none"
        raise ConfigError(f"grid, {folder}: {what}, got {found}; pass the folder of a sweep")
    cells: dict[tuple[str, float, float], Cell] = {}
    for table in grids:
        name = _optimizer(table)
        for line, row in table.rows.items():
            cell = Cell(name, row["initial_beta1"], row["initial_beta2"], 0, row["train_loss"], row["val_loss"])
            start = (name, cell.beta1, cell.beta2)
            if start in cells:
                where = f"{table.path}, line {line}"
                raise malformed(where, f"one row of {name} from each pair of betas", f"another from {start[1:]}")
            cells[start] = cell
    return list(cells.values())


def _optimizer(table: LogTable) -> str:
    """The optimizer, from the file's name: the authors name a file for each of their GPUs, numbered 0 to 7."""
    words = table.path.stem.rstrip("0123456789").split("_")
    named = [name for name in ("hyperadam", "adam", "mada") if name in words]
    if named or words[:3] == ["hyper", "train", "log"]:
        return named[0] if named else "mada"
    return table.path.stem


def _surface(name: str, cells: Sequence[Cell]) -> Surface:
    beta1, beta2, seeds = (sorted({getattr(cell, key) for cell in cells}) for key in ("beta1", "beta2", "seed"))
    shape = (len(beta1), len(beta2), len(seeds))
    training, validation, ran = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
    for cell in cells:
        place = beta1.index(cell.beta1), beta2.index(cell.beta2), seeds.index(cell.seed)
        training[place], validation[place], ran[place] = cell.training, cell.validation, True
    return Surface(name, np.array(beta1), np.array(beta2), training, validation, ran)


HEAD = ("loss", "optimizer", "best (β₁, β₂)", "median", "worst (β₁, β₂)", "sd of seeds", "failed runs")
CAPTION = (
    "Mean over seeds of the final loss, over the initial betas; each column has one scale. Star: the lowest mean. "
    "Cross: a seed failed, so the cell has no mean. Above each panel: the range of the means."
)


def table(surfaces: Sequence[Surface]) -> Table:
    """The cells of each optimizer from best to worst, and how often its loss is below that of the first one."""
    rows = [_row(which, surface, surfaces[0]) for which in LOSSES for surface in surfaces]
    return Table([*HEAD, f"below {surfaces[0].name} in", "median difference"], rows)


def page(surfaces: Sequence[Surface], lead: str = "") -> Page:
    """The page: `lead`, the contours and the table."""
    alt = f"Contours of final loss over the initial betas: {', '.join(surface.name for surface in surfaces)}"
    parts = [Figures({alt: contours(surfaces)}, CAPTION, "whole"), table(surfaces)]
    intro = [Text(lead, "lead")] if lead else []
    return Page("Final losses over the initial betas", [Section("Losses", parts)], intro)


def _row(which: str, surface: Surface, first: Surface) -> list[str]:
    losses = surface.losses(which)
    mean, seeds = surface.mean(which), surface.spread_over_seeds(which)
    return [
        which,
        surface.name,
        _extreme(surface, mean, np.nanargmin),
        f"{np.nanmedian(mean):.4f}",
        _extreme(surface, mean, np.nanargmax),
        NOTHING if math.isnan(seeds) else f"{seeds:.4f}",
        f"{int(np.isnan(losses[surface.ran]).sum())} of {surface.ran.sum()}",
        *(("", "") if surface is first else _against(mean, first.mean(which))),
    ]


def _extreme(surface: Surface, mean: Floats, which: object) -> str:
    i, j = np.unravel_index(which(mean), mean.shape)  # type: ignore[operator]
    return f"{mean[i, j]:.4f} ({surface.beta1[i]:g}, {surface.beta2[j]:g})"


def _against(mean: Floats, first: Floats) -> tuple[str, str]:
    if mean.shape != first.shape:
        return "other cells", ""
    both = np.isfinite(mean) & np.isfinite(first)
    difference = (mean - first)[both]
    return f"{int((difference < 0).sum())} of {both.sum()}", f"{np.median(difference):+.4f}"
