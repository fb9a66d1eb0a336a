"""How the learned coefficients moved, and the hypergradients that moved them: one small panel per coefficient.

A panel shows the runs that learn its coefficient; what isn't learned is no part of the figures.
"""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mada_lab.plots import style
from mada_lab.plots.curves import coefficient_range, finite, smooth, symmetric_range, thin
from mada_lab.records.run_record import Run

Panel = Callable[[Axes, Sequence[Run], str], None]

_RING: style.Look = {
    "marker": "o",
    "markersize": 5.5,
    "markerfacecolor": "white",
    "markeredgewidth": 1.4,
    "clip_on": False,
    "zorder": 4,
}


@style.drawing()
def coefficient_panels(runs: Sequence[Run], limit: int | None = None) -> dict[str, Figure]:
    """By name, the applied values over steps of each coefficient that any run learns (the first `limit`)."""
    return _figures(runs, learned_names(runs)[:limit], _coefficient)


@style.drawing()
def hypergradient_panels(runs: Sequence[Run], limit: int | None = None) -> dict[str, Figure]:
    """Likewise for the hypergradients, in loss per unit of the coefficient."""
    return _figures(runs, with_hypergradients(runs)[:limit], _hypergradient)


@style.drawing()
def coefficient_grid(runs: Sequence[Run], columns: int = 3) -> Figure:
    """All of these coefficients in one figure, to save on its own, with the runs named below."""
    return _grid(runs, learned_names(runs), _coefficient, columns)


@style.drawing()
def hypergradient_grid(runs: Sequence[Run], columns: int = 3) -> Figure:
    """Likewise for the hypergradients."""
    return _grid(runs, with_hypergradients(runs), _hypergradient, columns)


def _grid(runs: Sequence[Run], names: Sequence[str], draw: Panel, columns: int) -> Figure:
    columns = min(columns, len(names)) or 1
    rows = -(-len(names) // columns) or 1
    figure = Figure(figsize=(style.SMALL[0] * columns, style.SMALL[1] * rows), layout="constrained")
    for i, name in enumerate(names):
        draw(figure.add_subplot(rows, columns, i + 1), runs, name)
    with_any = [(style.sample(i), run.name) for i, run in enumerate(runs) if {*names} & {*run.learned}]
    style.legend_below(figure, [line for line, _ in with_any], [name for _, name in with_any], columns)
    return figure


def learned_names(runs: Sequence[Run]) -> list[str]:
    """The coefficients that any of the runs learns, in the order of their first appearance."""
    return list(dict.fromkeys(name for run in runs for name in run.learned))


def with_hypergradients(runs: Sequence[Run]) -> list[str]:
    """Those of them whose hypergradient isn't 0 throughout."""
    return [
        name
        for name in learned_names(runs)
        if any(x != 0 for run in runs if name in run.learned for x in run.hypergradient(name)[1])
    ]


def _figures(runs: Sequence[Run], names: list[str], draw: Panel) -> dict[str, Figure]:
    figures = {}
    for name in names:
        figures[name] = Figure(figsize=style.SMALL, layout="constrained")
        draw(figures[name].add_subplot(), runs, name)
    return figures


def _coefficient(axes: Axes, runs: Sequence[Run], name: str) -> None:
    seen: list[float] = []
    for i, run in enumerate(runs):
        if name not in run.learned:
            continue
        steps, values = run.coefficient(name)
        axes.plot(*thin(steps, values), **style.line_style(i), **style.LINE)
        initial = run.initial_coefficients().get(name)
        start = np.nan if initial is None else float(initial)
        axes.axhline(start, color=style.colour(i), linestyle=(0, (1, 2)), linewidth=0.9, zorder=1.9)
        axes.plot([0], [start], **_RING, markeredgecolor=style.colour(i))
        seen += [*values, start]
    _label(axes, name, _frame_coefficient(axes, finite(seen), name))
    style.step_axis(axes, runs)


def _frame_coefficient(axes: Axes, values: np.ndarray, name: str) -> str:
    if not len(values):
        style.say(axes, "no finite value")
        return ""
    # The learning rate is the one coefficient that is not of order one.
    least = 0.1 * float(np.abs(values).max()) if name == "lr" else 0.01
    bottom, top = coefficient_range(float(values.min()), float(values.max()), least or 0.01)
    axes.set_ylim(bottom, top)
    return f"full height {top - bottom:.3g}"


def _hypergradient(axes: Axes, runs: Sequence[Run], name: str) -> None:
    seen: list[float] = []
    axes.axhline(0.0, color=style.MUTED, linewidth=0.8, zorder=1.9)
    for i, run in enumerate(runs):
        if name not in run.learned:
            continue
        steps, values = run.hypergradient(name)
        axes.plot(*thin(steps, values), color=style.colour(i), **style.RAW)
        axes.plot(*thin(steps, smooth(values)), **style.line_style(i), **style.LINE)
        seen += values
    bottom, top = symmetric_range(finite(seen))
    axes.set_ylim(bottom, top)
    beyond = int((np.abs(finite(seen)) > top).sum())
    _label(axes, name, f"±{top:.3g}" + (f", {beyond} beyond" if beyond else ""))
    style.step_axis(axes, runs)


def _label(axes: Axes, name: str, note: str) -> None:
    axes.set_title(style.printable(name, 24))
    axes.set_title(note, loc="right", fontsize=9, fontweight="normal", color=style.MUTED)
