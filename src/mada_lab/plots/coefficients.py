"""Learned coefficients and hypergradients over steps: a small panel per coefficient, of the runs that learn it."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from mada_lab.plots import style
from mada_lab.plots.curves import coefficient_range, finite, smooth, symmetric_range, thin
from mada_lab.records.run_record import Run

_RING: style.Look = {"marker": "o", "markersize": 5.5, "markerfacecolor": "white", "markeredgewidth": 1.4}
_RING |= {"clip_on": False, "zorder": 4}


def coefficients(runs: Sequence[Run]) -> style.Panels:
    """The applied values over steps of each coefficient that any of the runs learns."""
    return {name: partial(_coefficient, runs=runs, name=name) for name in learned_names(runs)}


def hypergradients(runs: Sequence[Run]) -> style.Panels:
    """The hypergradients over steps of those coefficients for which they are not always 0."""
    moved = {name for run in runs for name in run.learned if any(x != 0 for x in run.hypergradient(name)[1])}
    return {name: partial(_hypergradient, runs=runs, name=name) for name in learned_names(runs) if name in moved}


def learned_names(runs: Sequence[Run]) -> list[str]:
    """The coefficients that any of the runs learns, in the order of their first appearance."""
    return list(dict.fromkeys(name for run in runs for name in run.learned))


def _coefficient(axes: Axes, runs: Sequence[Run], name: str) -> None:
    seen: list[float] = []
    for i, run in enumerate(runs):
        if name not in run.learned:
            continue
        steps, values = run.coefficient(name)
        axes.plot(*thin(steps, values), **style.line_style(i), **style.LINE)
        initial = run.initial_coefficients().get(name)
        start = np.nan if initial is None else float(initial)
        axes.axhline(start, color=style.color(i), linestyle=(0, (1, 2)), linewidth=0.9, zorder=1.9)
        axes.plot([0], [start], **_RING, markeredgecolor=style.color(i))
        seen += [*values, start]
    _label(axes, name, _frame_coefficient(axes, finite(seen), name), name)
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
        axes.plot(*thin(steps, values), color=style.color(i), **style.RAW)
        axes.plot(*thin(steps, smooth(values)), **style.line_style(i), **style.LINE)
        seen += values
    bottom, top = symmetric_range(finite(seen))
    axes.set_ylim(bottom, top)
    beyond = int((np.abs(finite(seen)) > top).sum())
    _label(axes, name, f"±{top:.3g}" + (f", {beyond} beyond" if beyond else ""), "hypergradient")
    style.step_axis(axes, runs)


def _label(axes: Axes, name: str, note: str, unit: str) -> None:
    axes.set_title(style.printable(name, 24))
    axes.set_ylabel(style.printable(unit, 24))
    style.note(axes, note)
