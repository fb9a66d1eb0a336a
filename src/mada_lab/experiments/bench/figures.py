"""The figures that the bench is run for: what is asked of each, and what was measured."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mada_lab.experiments.bench.measure import Table, geometric_mean, is_better, worst_over
from mada_lab.experiments.bench.sections import CONTENDERS, HYPER, Scope, best_name, betas_name, hyper_name, lr_name

HIGHEST = 1e-2  # the base learning rates up to it are those that a user may well choose


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        what: What is measured.
        asked: What is asked of it, in words.
        measured: In words.
        holds: Whether it is so; None if it wasn't measured.
    """

    what: str
    asked: str
    measured: str
    holds: bool | None


def figures(tables: Sequence[Table], scope: Scope) -> list[Figure]:
    """All of them; "-" where a section wasn't run.

    Those of learned learning rates are given for each of this library's optimizers that the map of rates has.
    """
    ours = [name for name in scope.mapped if name in CONTENDERS]
    return [figure for name in ours for figure in _of(name, tables, scope)] + _initial_betas(tables, scope)


def _of(name: str, tables: Sequence[Table], scope: Scope) -> list[Figure]:
    return [
        *_rates(name, tables, scope),
        _hyper(name, tables),
        *_defaults(name, tables),
        *_against_tuned(name, tables, scope),
    ]


def tuned(table: Table, family: str) -> str | None:
    """The group of a family's best trial, with the seeds that it is reported for; None if there is none."""
    names = [name for name in table.cells if name.startswith(best_name(family)) and table.has(name)]
    return names[0] if names else None


def lr_ratio(table: Table, optimizer: str, rates: Iterable[float], all_rates: Sequence[float]) -> float:
    """The worst loss over `rates` over the best that AdamW has at any rate of the map."""
    names = [lr_name(optimizer, x) for x in rates]
    return worst_over(table, names, [lr_name("adamw", x) for x in all_rates])


def betas_ratio(table: Table, optimizer: str, scope: Scope) -> float:
    """The worst loss over the grid of betas over the best that AdamW has there."""
    cells = [(a, b) for a in scope.betas[0] for b in scope.betas[1]]
    return worst_over(table, [betas_name(optimizer, *x) for x in cells], [betas_name("adamw", *x) for x in cells])


def hyper_ratio(table: Table, optimizer: str) -> float:
    """The worst loss over two decades of hyper learning rates over the best."""
    names = [hyper_name(optimizer, x) for x in HYPER]
    return worst_over(table, names, names)


def target(table: Table) -> float:
    """The mean final loss of tuned AdamW; NaN if it wasn't tuned."""
    name = tuned(table, "adamw")
    return math.nan if name is None else table.mean(name)


def _rates(optimizer: str, tables: Sequence[Table], scope: Scope) -> list[Figure]:
    usual = [x for x in scope.rates if x <= HIGHEST]
    low = [lr_ratio(table, optimizer, usual, scope.rates) for table in tables]
    high = [lr_ratio(table, optimizer, scope.rates, scope.rates) for table in tables]
    name = f"worst {optimizer} / best AdamW"
    return [
        _mean(f"base lr {scope.rates[0]:g} to {HIGHEST:g}: {name}", low, 1.02),
        _mean(f"base lr {scope.rates[0]:g} to {scope.rates[-1]:g}: {name}", high, 1.05),
    ]


def _hyper(optimizer: str, tables: Sequence[Table]) -> Figure:
    ratios = [hyper_ratio(table, optimizer) for table in tables]
    return _mean(f"hyper lr over 2 decades: worst {optimizer} / best", ratios, 1.02)


def _initial_betas(tables: Sequence[Table], scope: Scope) -> list[Figure]:
    betas = [betas_ratio(table, "mada", scope) for table in tables]
    grid = [betas_name("mada", a, b) for a in scope.betas[0] for b in scope.betas[1]]
    lost = sum(table.bad(name) for table in tables for name in grid if table.has(name))
    return [
        _mean("grid of betas: worst mada / best AdamW", betas, 1.03),
        _counted("grid of betas: diverged runs of mada", betas, lost, "0", lost == 0),
    ]


def _defaults(optimizer: str, tables: Sequence[Table]) -> list[Figure]:
    row = CONTENDERS[optimizer]
    steps = [table.steps_to(row, target(table)) for table in tables if table.has(row)]
    both = [table for table in tables if table.has(row) and table.has("adamw_default")]
    better = [table.task for table in both if is_better(table, row, "adamw_default")]
    needed = math.ceil(7 / 8 * len(both))
    text = f"{len(better)} of {len(both)}"
    worst = max(steps, default=math.nan)
    return [
        _mean(f"{optimizer} at its defaults: steps to tuned AdamW's final loss, over all steps", steps, 0.95),
        _bounded(f"{optimizer}: the same, worst task", worst, 1.05, steps),
        Figure(
            f"tasks where {optimizer}'s defaults are better than AdamW's, outside the spread",
            "at least 7 of 8",
            text if both else "-",
            len(better) >= needed if both else None,
        ),
    ]


def _against_tuned(optimizer: str, tables: Sequence[Table], scope: Scope) -> list[Figure]:
    row = CONTENDERS[optimizer]
    language = [table for table in tables if table.language]
    pairs = [(t, name) for t in language for x in scope.rates if t.has(name := lr_name(optimizer, x))]
    below = sum(t.mean(name) < target(t) for t, name in pairs)
    hidden = [(t, name) for t in tables if t.matrices and (name := tuned(t, "muon")) is not None]
    rates = [lr_name(optimizer, x) for x in scope.rates if x <= HIGHEST]
    steps = [t.steps_to(row, target(t)) for t in language if t.has(row)]
    return [
        Figure(
            f"language tasks and base lrs where {optimizer} is below tuned AdamW",
            "all",
            f"{below} of {len(pairs)}" if pairs else "-",
            below == len(pairs) if pairs else None,
        ),
        _mean(
            f"{optimizer} at its defaults / tuned Muon, tasks with hidden matrices",
            [t.mean(row) / t.mean(name) for t, name in hidden if t.has(row)],
            1.01,
        ),
        _mean(
            f"{optimizer} at its worst base lr up to {HIGHEST:g} / tuned Muon, the same tasks",
            [worst_over(t, rates, [name]) for t, name in hidden if t.has(rates[0])],
            1.02,
        ),
        _mean(f"{optimizer}, language tasks: steps to tuned AdamW's final loss, over all steps", steps, 0.70),
    ]


def _mean(what: str, ratios: Sequence[float], most: float) -> Figure:
    """A geometric mean over the tasks that have the figure."""
    known = [x for x in ratios if not math.isnan(x)]
    found = _bounded(what, geometric_mean(known), most, known)
    return Figure(f"{what} (geometric mean)", found.asked, found.measured, found.holds)


def _bounded(what: str, value: float, most: float, of: Sequence[float]) -> Figure:
    if math.isnan(value):
        return Figure(what, f"at most {most:g}", "-", None)
    shown = "never" if math.isinf(value) else f"{value:.3f}"
    if math.isinf(value) and (reached := [x for x in of if math.isfinite(x)]):
        shown = f"never on {len(of) - len(reached)} of {len(of)}, {geometric_mean(reached):.3f} on the others"
    return Figure(what, f"at most {most:g}", shown, value <= most)


def _counted(what: str, measured: Sequence[float], count: int, asked: str, holds: bool) -> Figure:
    known = any(not math.isnan(x) for x in measured)
    return Figure(what, asked, str(count) if known else "-", holds if known else None)
