"""The online problems: average regret, iterate and rho over time, of several methods."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from mada_lab.plots import style
from mada_lab.plots.curves import finite, thin
from mada_lab.records.run_record import Run

BEST, WORST = -1.0, 1.0


def panels(runs: Sequence[Run]) -> style.Panels:
    """Average regret, iterate and rho of each run over time."""
    return {name: partial(draw, runs=runs) for name, draw in DRAWN.items()}


def _regret(axes: Axes, runs: Sequence[Run]) -> None:
    series = [run.series("average_regret") for run in runs]
    _lines(axes, series)
    axes.set(title="Average regret", ylabel="average regret")
    shown = np.concatenate([finite(values)[_late(steps) :] for steps, values in series])
    if len(shown) and shown.min() > 0:
        axes.set_yscale("log")
        axes.set_ylim(shown.min() / 1.2, shown.max() * 1.2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if shown.max() < 10 * shown.min() else NullFormatter())
    _time_axis(axes, runs)


def _late(steps: Sequence[int]) -> int:
    """Where the first thousandth of the time is over, in which averages are over few plays."""
    return int(np.searchsorted(steps, 1e-3 * steps[-1])) if steps else 0


def _iterate(axes: Axes, runs: Sequence[Run]) -> None:
    _lines(axes, [run.series("iterate") for run in runs])
    axes.axhline(BEST, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=1.0, zorder=1.9)
    axes.set(title="Iterate (best: -1)", ylabel="iterate x", ylim=(BEST - 0.08, WORST + 0.08))
    _time_axis(axes, runs)


def _rho(axes: Axes, runs: Sequence[Run]) -> None:
    seen = _lines(axes, [run.coefficient("rho") for run in runs])
    axes.set(title="rho (1 is Adam, 0 is AVGrad)", ylabel="rho", ylim=(-0.04, 1.04))
    if not any(map(len, seen)):
        style.say(axes, "no method here has a rho")
    _time_axis(axes, runs)


DRAWN = {"Average regret": _regret, "Iterate": _iterate, "rho": _rho}


def _lines(axes: Axes, series: Sequence[tuple[list[int], list[float]]]) -> list[np.ndarray]:
    for i, (steps, values) in enumerate(series):
        # thinner from one to the next, so that of two that agree both are seen
        look = style.LINE | {"linewidth": 2.6 - 1.6 * i / max(len(series) - 1, 1)}
        axes.plot(*thin(steps, values), **style.line_style(i), **look)
    return [finite(values) for _, values in series]


def _time_axis(axes: Axes, runs: Sequence[Run]) -> None:
    """In log t, unless the learning rate is constant and most happens late."""
    schedules = {run.manifest.get("config", {}).get("schedule") for run in runs}
    if schedules == {"constant"}:
        style.step_axis(axes, runs)
    else:
        axes.set_xscale("log")
        axes.set_xlim(left=1, right=max((run.rows[-1]["step"] for run in runs if run.rows), default=10))
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("time t (plays)")
