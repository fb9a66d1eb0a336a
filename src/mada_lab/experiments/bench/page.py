"""The bench's tables, as Markdown and on a page, and its figures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mada_lab.experiments.bench.families import DEFAULTS, FAMILIES
from mada_lab.experiments.bench.figures import HIGHEST, betas_ratio, figures, lr_ratio, target, tuned
from mada_lab.experiments.bench.measure import Table, geometric_mean
from mada_lab.experiments.bench.sections import (
    CONTENDERS,
    EQUAL,
    FIXED,
    MAIN,
    OF_BETAS,
    Scope,
    ablations,
    betas_name,
    hyper_map,
    lr_name,
)
from mada_lab.experiments.seeds import NOTHING, band, mean_sd
from mada_lab.plots.contours import LOSSES, Surface, contours
from mada_lab.plots.seeds import bands, lr_lines
from mada_lab.reports.html import Figures, Page, Section, Text
from mada_lab.reports.html import Table as PageTable

Rows = list[list[str]]
Memory = Mapping[str, float]


def sections_of(tables: Sequence[Table], scope: Scope, memory: Memory) -> list[Section]:
    """A section for each table that has rows."""
    tasks = [t.task for t in tables]
    means = ["", *tasks, "geometric mean"]
    cost = ["", *(f"{task}, ms per step" for task in tasks), "state, bytes per parameter"]
    found: list[tuple[str, list[str], Rows]] = [
        ("Losses", ["", *tasks], _losses(tables)),
        ("Over the best AdamW", means, _per_group(tables, lambda t, name: t.mean(name) / target(t))),
        ("Steps to tuned AdamW's final loss, over all steps", means, _per_group(tables, _steps)),
        ("Learning rates: worst over AdamW's best", means, _lr(tables, scope)),
        ("Betas: worst over AdamW's best", means, _betas(tables, scope)),
        ("Hyper learning rates and ablations", means, _ablations(tables)),
        ("Cost", cost, _cost(tables, memory)),
        ("Required figures", ["figure", "asked", "measured", "holds"], _required(tables, scope)),
    ]
    return [Section(title, [PageTable(head, rows)]) for title, head, rows in found if rows]


def _groups(tables: Sequence[Table]) -> list[tuple[str, list[str | None]]]:
    """The rows at defaults and tuned: their title, and the group's name on each task."""
    rows: list[tuple[str, list[str | None]]] = [
        (name, [name if t.has(name) else None for t in tables]) for name in DEFAULTS
    ]
    rows += [(f"{family}, tuned", [tuned(t, family) for t in tables]) for family in FAMILIES]
    return [row for row in rows if any(row[1])]


def _losses(tables: Sequence[Table]) -> Rows:
    return [
        [title, *(NOTHING if name is None else shown(t, name) for t, name in zip(tables, names, strict=True))]
        for title, names in _groups(tables)
    ]


def shown(t: Table, name: str) -> str:
    """Mean and standard deviation, and how many runs diverged."""
    bad, missing = t.bad(name), t.cells[name].missing
    notes = [f"{bad} diverged"] * bool(bad) + [f"{missing} missing"] * bool(missing)
    return mean_sd(t.values(name)) + (f" ({', '.join(notes)})" if notes else "")


def _per_group(tables: Sequence[Table], measure: Callable[[Table, str], float]) -> Rows:
    """`measure` of each row at defaults and tuned, on each task, and its geometric mean."""
    return [
        _row(title, [math.nan if n is None else measure(t, n) for t, n in zip(tables, names, strict=True)])
        for title, names in _groups(tables)
    ]


def _steps(t: Table, name: str) -> float:
    return t.steps_to(name, target(t))


def _row(title: str, values: Iterable[float]) -> list[str]:
    known = list(values)
    mean = geometric_mean(x for x in known if not math.isnan(x))
    return [title, *map(ratio, known), ratio(mean)]


def ratio(x: float) -> str:
    """Three decimals."""
    return NOTHING if math.isnan(x) else "never" if math.isinf(x) else f"{x:.3f}"


def _lr(tables: Sequence[Table], scope: Scope) -> Rows:
    rows = []
    for optimizer in scope.mapped:
        for highest in (HIGHEST, max(scope.rates)):
            rates = [x for x in scope.rates if x <= highest]
            values = [lr_ratio(t, optimizer, rates, scope.rates) for t in tables]
            if not all(map(math.isnan, values)):
                rows.append(_row(f"{optimizer}, {rates[0]:g} to {rates[-1]:g}", values))
    for optimizer in scope.mapped if rows else ():
        names = dict.fromkeys(lr_name(optimizer, x) for x in scope.rates)
        rows += [[name, *(shown(t, name) for t in tables), NOTHING] for name in names]
    return rows


def _betas(tables: Sequence[Table], scope: Scope) -> Rows:
    found = {optimizer: [betas_ratio(t, optimizer, scope) for t in tables] for optimizer in OF_BETAS}
    return [_row(optimizer, values) for optimizer, values in found.items() if not all(map(math.isnan, values))]


def _ablations(tables: Sequence[Table]) -> Rows:
    names = list(dict.fromkeys([*CONTENDERS.values(), *hyper_map(), *ablations(), FIXED, EQUAL]))
    found = [
        _row(f"{name}, over tuned AdamW", [t.mean(name) / target(t) for t in tables])
        for name in names
        if any(t.has(name) for t in tables)
    ]
    return found if len(found) > 1 else []


def _cost(tables: Sequence[Table], memory: Memory) -> Rows:
    rows = []
    for title, names in _groups(tables):
        times = [t.cells[n].step_seconds if n else [] for t, n in zip(tables, names, strict=True)]
        held = memory.get(title)
        state = NOTHING if held is None else f"{held:.1f}"
        rows.append([title, *(f"{1000 * sorted(x)[len(x) // 2]:.2f}" if x else NOTHING for x in times), state])
    return rows


def _required(tables: Sequence[Table], scope: Scope) -> Rows:
    words = {True: "yes", False: "no", None: "not measured"}
    return [[x.what, x.asked, x.measured, words[x.holds]] for x in figures(tables, scope)]


def markdown(tables: Sequence[Table], scope: Scope, memory: Memory) -> str:
    """All tables."""
    sections = sections_of(tables, scope, memory)
    parts = [f"## {x.title}\n\n{part.markdown()}" for x in sections for part in x.parts if isinstance(part, PageTable)]
    return "\n\n".join(parts) + "\n"


def page(tables: Sequence[Table], scope: Scope, memory: Memory, failures: Sequence[str]) -> Page:
    """The page: tables, the figures of each task, and a line for each run that failed."""
    sections = sections_of(tables, scope, memory)[::-1]
    sections += [Section(t.task, [Figures(_figures(t, scope), CAPTION)]) for t in tables]
    sections.append(Section("Failures", [Text(line) for line in failures]))
    return Page("Bench", sections, [_lead(tables, scope)])


CAPTION = (
    "Validation loss over steps: the mean over seeds, and the range from the lowest to the highest. Final loss over "
    "the base learning rate, and over initial betas."
)


def _lead(tables: Sequence[Table], scope: Scope) -> Text:
    seeds, map_seeds = (", ".join(map(str, x)) for x in (scope.seeds, scope.map_seeds))
    tuning = f"{scope.trials} trials of each family on seed 0, the best on seeds {seeds}"
    return Text(f"{len(tables)} tasks; {tuning}; maps on seeds {map_seeds}.", "lead")


def _figures(t: Table, scope: Scope) -> dict[str, Figure]:
    """The figures of a task by their alt texts."""
    drawn = {
        f"Validation loss over steps on {t.task}": curves(t),
        f"Final loss over the base learning rate on {t.task}": rates(t, scope),
        f"Final losses over the initial betas on {t.task}": betas(t, scope),
    }
    return {alt: figure for alt, figure in drawn.items() if figure is not None}


def curves(t: Table) -> Figure | None:
    """Validation losses of AutoMuon and AdamW, at their defaults and tuned, and of tuned Muon."""
    names = {
        "AutoMuon": MAIN,
        "AdamW": "adamw_default",
        "AdamW, tuned": tuned(t, "adamw"),
        "Muon, tuned": tuned(t, "muon"),
    }
    given = {
        title: band(t.cells[name].curves)
        for title, name in names.items()
        if name and t.has(name) and t.cells[name].curves
    }
    return bands(given, f"{t.task}: validation loss") if given else None


def rates(t: Table, scope: Scope) -> Figure | None:
    """Final losses over the base learning rate, as exponents of 10."""
    losses = {
        name: [t.values(lr_name(name, x)) for x in scope.rates]
        for name in scope.mapped
        if all(t.has(lr_name(name, x)) for x in scope.rates)
    }
    return lr_lines(scope.rates, losses, f"{t.task}: final validation loss") if losses else None


def betas(t: Table, scope: Scope) -> Figure | None:
    """Final losses over initial betas."""
    given = [_surface(t, name, scope) for name in OF_BETAS if t.has(betas_name(name, *_first(scope)))]
    return contours(given) if given else None


def _first(scope: Scope) -> tuple[float, float]:
    return scope.betas[0][0], scope.betas[1][0]


def _surface(t: Table, optimizer: str, scope: Scope) -> Surface:
    cells = [[t.cells[betas_name(optimizer, a, b)] for b in scope.betas[1]] for a in scope.betas[0]]
    training, validation = (np.full((*np.shape(cells), len(scope.map_seeds)), np.nan) for _ in LOSSES)
    for place in np.ndindex(np.shape(cells)):
        cell = cells[place[0]][place[1]]
        training[place][: len(cell.train_losses)] = cell.train_losses
        validation[place][: len(cell.losses)] = cell.losses
    ran = np.indices(validation.shape)[-1] < np.array([[[len(x.losses)] for x in row] for row in cells])
    first, second = (np.array(x) for x in scope.betas)
    return Surface(optimizer, first, second, training, validation, ran)
