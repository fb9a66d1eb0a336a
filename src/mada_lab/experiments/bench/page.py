"""The bench's tables, as Markdown and on a page, and its figures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest

from matplotlib.figure import Figure

from mada_lab.experiments.bench.families import DEFAULTS, FAMILIES
from mada_lab.experiments.bench.figures import HIGHEST, betas_ratio, figures, lr_ratio, target, tuned
from mada_lab.experiments.bench.measure import Table, geometric_mean
from mada_lab.experiments.bench.sections import MAIN, OF_BETAS, Scope, betas_name, lr_name, variants
from mada_lab.experiments.grid import Cell, surfaces
from mada_lab.experiments.seeds import NOTHING, band, mean_sd
from mada_lab.plots.contours import contours
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
    given: list[tuple[str, list[str], Rows]] = [
        ("Losses", ["", *tasks], [[title, *map(shown, tables, names)] for title, names in _groups(tables)]),
        ("Over the best AdamW", means, _per_group(tables, lambda t, name: t.mean(name) / target(t))),
        (
            "Steps to tuned AdamW's final loss, over all steps",
            means,
            _per_group(tables, lambda t, name: t.steps_to(name, target(t))),
        ),
        ("Learning rates: worst over AdamW's best", means, _lr(tables, scope)),
        ("Betas: worst over AdamW's best", means, _betas(tables, scope)),
        ("Hyper learning rates and ablations", means, _ablations(tables)),
        ("Cost", cost, _cost(tables, memory)),
        ("Required figures", ["figure", "asked", "measured", "holds"], _required(tables, scope)),
    ]
    return [Section(title, [PageTable(head, rows)]) for title, head, rows in given if rows]


def _groups(tables: Sequence[Table]) -> list[tuple[str, list[str]]]:
    """The rows at defaults and tuned: a title, and the name of the group on each task, "" where there is none."""
    rows = [(name, [name if t.has(name) else "" for t in tables]) for name in DEFAULTS]
    rows += [(f"{family}, tuned", [tuned(t, family) or "" for t in tables]) for family in FAMILIES]
    return [row for row in rows if any(row[1])]


def shown(t: Table, name: str) -> str:
    """Mean and standard deviation, and how many runs diverged."""
    if not t.has(name):
        return NOTHING
    counts = {"diverged": t.bad(name), "missing": t.cells[name].missing}
    notes = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return mean_sd(t.values(name)) + (f" ({notes})" if notes else "")


def _per_group(tables: Sequence[Table], measure: Callable[[Table, str], float]) -> Rows:
    """`measure` of each row at defaults and tuned, on each task, and its geometric mean."""
    return [_row(title, map(measure, tables, names)) for title, names in _groups(tables)]


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
    ratios = {optimizer: [betas_ratio(t, optimizer, scope) for t in tables] for optimizer in OF_BETAS}
    return [_row(optimizer, values) for optimizer, values in ratios.items() if not all(map(math.isnan, values))]


def _ablations(tables: Sequence[Table]) -> Rows:
    names = [name for name in variants() if any(t.has(name) for t in tables)]
    rows = [_row(f"{name}, over tuned AdamW", [t.mean(name) / target(t) for t in tables]) for name in names]
    return rows if len(rows) > 1 else []


def _cost(tables: Sequence[Table], memory: Memory) -> Rows:
    rows = []
    for title, names in _groups(tables):
        times = [t.cells[name].step_seconds if name else [] for t, name in zip(tables, names, strict=True)]
        state = f"{memory[title]:.1f}" if title in memory else NOTHING
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
    return Text(f"Tasks: {len(tables)}; {tuning}; maps on seeds {map_seeds}.", "lead")


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
    names = {"AutoMuon": MAIN, "AdamW": "adamw_default"}
    names |= {title: tuned(t, family) or "" for title, family in (("AdamW, tuned", "adamw"), ("Muon, tuned", "muon"))}
    given = {title: band(t.cells[name].curves) for title, name in names.items() if t.has(name) and t.cells[name].curves}
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
    cells = [cell for optimizer in OF_BETAS for cell in _cells(t, optimizer, scope)]
    return contours(surfaces(cells)) if cells else None


def _cells(t: Table, optimizer: str, scope: Scope) -> list[Cell]:
    names = {(a, b): betas_name(optimizer, a, b) for a in scope.betas[0] for b in scope.betas[1]}
    return [
        Cell(optimizer, *pair, i, *losses)
        for pair, name in names.items()
        if t.has(name)
        for i, losses in enumerate(zip_longest(t.cells[name].train_losses, t.cells[name].losses, fillvalue=math.nan))
    ]
