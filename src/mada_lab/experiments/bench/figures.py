"""The required figures of the bench: the goal of each, and the measured value."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mada_lab.experiments.bench.measure import Table, geometric_mean, is_better, worst_over
from mada_lab.experiments.bench.sections import CONTENDERS, HYPER, Scope, best_name, betas_name, hyper_name, lr_name
from mada_lab.experiments.seeds import NOTHING

HIGHEST = 1e-2  # a user may well choose a base learning rate up to it


@dataclass(frozen=True)
class Figure:
    """A figure, with its goal."""

    what: str  #: what is measured
    asked: str  #: the goal, in words
    measured: str  #: the result, in words; "-" if it wasn't measured
    holds: bool | None  #: whether the result meets the goal; None if it wasn't measured


def figures(tables: Sequence[Table], scope: Scope) -> list[Figure]:
    """All figures; those of learned learning rates for each of this library's optimizers in the map of rates."""
    ours = [name for name in scope.mapped if name in CONTENDERS]
    makers = (_rates, _hyper, _defaults, _against_tuned)
    of_rates = [figure for name in ours for make in makers for figure in make(name, tables, scope)]
    return [*of_rates, *_initial_betas(tables, scope)]


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


def _rates(optimizer: str, tables: Sequence[Table], scope: Scope) -> Iterator[Figure]:
    usual = [x for x in scope.rates if x <= HIGHEST]
    for rates, highest, most in ((usual, HIGHEST, 1.02), (scope.rates, scope.rates[-1], 1.05)):
        what = f"base lr {scope.rates[0]:g} to {highest:g}: worst {optimizer} / best AdamW"
        yield _mean(what, [lr_ratio(table, optimizer, rates, scope.rates) for table in tables], most)


def _hyper(optimizer: str, tables: Sequence[Table], scope: Scope) -> Iterator[Figure]:
    ratios = [hyper_ratio(table, optimizer) for table in tables]
    yield _mean(f"hyper lr over 2 decades: worst {optimizer} / best", ratios, 1.02)


def _initial_betas(tables: Sequence[Table], scope: Scope) -> list[Figure]:
    ratios = [betas_ratio(table, "mada", scope) for table in tables]
    grid = [betas_name("mada", a, b) for a in scope.betas[0] for b in scope.betas[1]]
    lost = sum(table.bad(name) for table in tables for name in grid if table.has(name))
    measured = not all(map(math.isnan, ratios))
    return [
        _mean("grid of betas: worst mada / best AdamW", ratios, 1.03),
        _counted("grid of betas: diverged runs of mada", "0", str(lost), lost == 0, measured),
    ]


def _defaults(optimizer: str, tables: Sequence[Table], scope: Scope) -> Iterator[Figure]:
    row = CONTENDERS[optimizer]
    steps = [table.steps_to(row, target(table)) for table in tables if table.has(row)]
    both = [table for table in tables if table.has(row) and table.has("adamw_default")]
    better = sum(is_better(table, row, "adamw_default") for table in both)
    yield _mean(f"{optimizer} at its defaults: steps to tuned AdamW's final loss, over all steps", steps, 0.95)
    yield _bounded(f"{optimizer}: the same, worst task", max(steps, default=math.nan), 1.05, steps)
    what = f"tasks where {optimizer}'s defaults are better than AdamW's, outside the spread"
    enough = better >= math.ceil(7 / 8 * len(both))
    yield _counted(what, "at least 7 of 8", f"{better} of {len(both)}", enough, bool(both))


def _against_tuned(optimizer: str, tables: Sequence[Table], scope: Scope) -> Iterator[Figure]:
    row = CONTENDERS[optimizer]
    language = [table for table in tables if table.language]
    pairs = [(t, name) for t in language for x in scope.rates if t.has(name := lr_name(optimizer, x))]
    below = sum(t.mean(name) < target(t) for t, name in pairs)
    what = f"language tasks and base lrs where {optimizer} is below tuned AdamW"
    yield _counted(what, "all", f"{below} of {len(pairs)}", below == len(pairs), bool(pairs))
    hidden = [(t, name) for t in tables if t.matrices and (name := tuned(t, "muon")) is not None]
    ratios = [t.mean(row) / t.mean(name) for t, name in hidden if t.has(row)]
    yield _mean(f"{optimizer} at its defaults / tuned Muon, tasks with hidden matrices", ratios, 1.01)
    rates = [lr_name(optimizer, x) for x in scope.rates if x <= HIGHEST]
    ratios = [worst_over(t, rates, [name]) for t, name in hidden if t.has(rates[0])]
    yield _mean(f"{optimizer} at its worst base lr up to {HIGHEST:g} / tuned Muon, the same tasks", ratios, 1.02)
    steps = [t.steps_to(row, target(t)) for t in language if t.has(row)]
    yield _mean(f"{optimizer}, language tasks: steps to tuned AdamW's final loss, over all steps", steps, 0.70)


def _mean(what: str, ratios: Sequence[float], most: float) -> Figure:
    """A geometric mean over the tasks for which there is a ratio."""
    known = [x for x in ratios if not math.isnan(x)]
    return _bounded(f"{what} (geometric mean)", geometric_mean(known), most, known)


def _bounded(what: str, value: float, most: float, of: Sequence[float]) -> Figure:
    """A number of which at most `most` is asked; inf says that a loss was never reached on some of the tasks."""
    shown = "never" if math.isinf(value) else f"{value:.3f}"
    if math.isinf(value) and (reached := [x for x in of if math.isfinite(x)]):
        shown = f"never on {len(of) - len(reached)} of {len(of)}, {geometric_mean(reached):.3f} on the others"
    return _counted(what, f"at most {most:g}", shown, value <= most, not math.isnan(value))


def _counted(what: str, asked: str, shown: str, holds: bool, measured: bool) -> Figure:
    return Figure(what, asked, shown, holds) if measured else Figure(what, asked, NOTHING, None)
