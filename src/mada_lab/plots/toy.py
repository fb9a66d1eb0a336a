"""The online problems: average regret, iterate and rho over time, of several methods."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mada_lab.plots import style
from mada_lab.plots.curves import finite, thin
from mada_lab.records.run_record import Run

Panel = Callable[[Axes, Sequence[Run]], None]

BEST, WORST = -1.0, 1.0


def is_toy(run: Run) -> bool:
    """Whether a run has a regret."""
    return bool(run.series("average_regret")[0])


@style.drawing()
def toy_panels(runs: Sequence[Run]) -> dict[str, Figure]:
    """One figure per quantity."""
    figures = {}
    for name, draw in PANELS.items():
        figures[name] = Figure(figsize=style.WIDE, layout="constrained")
        draw(figures[name].add_subplot(), runs)
    return figures


@style.drawing()
def toy_figure(runs: Sequence[Run]) -> Figure:
    """All of it in one figure, to save on its own."""
    width, height = style.WIDE
    figure = Figure(figsize=(width * len(PANELS), height), layout="constrained")
    for i, draw in enumerate(PANELS.values()):
        draw(figure.add_subplot(1, len(PANELS), i + 1), runs)
    handles = [style.sample(i) for i in range(len(runs))]
    style.legend_below(figure, handles, [run.name for run in runs], columns=len(runs))
    return figure


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
    axes.set(title="Iterate (best: -1)", ylabel="x", ylim=(BEST - 0.08, WORST + 0.08))
    _time_axis(axes, runs)


def _rho(axes: Axes, runs: Sequence[Run]) -> None:
    seen = _lines(axes, [run.coefficient("rho") for run in runs])
    axes.set(title="rho (1 is Adam, 0 is AVGrad)", ylabel="rho", ylim=(-0.04, 1.04))
    if not any(map(len, seen)):
        style.say(axes, "no method here has a rho")
    _time_axis(axes, runs)


PANELS: dict[str, Panel] = {"average_regret": _regret, "iterate": _iterate, "rho": _rho}


def _lines(axes: Axes, series: Sequence[tuple[list[int], list[float]]]) -> list[np.ndarray]:
    for i, (steps, values) in enumerate(series):
        # thinner from one to the next, so that of two that agree both are seen
        look = style.LINE | {"linewidth": 2.6 - 1.6 * i / max(len(series) - 1, 1)}
        axes.plot(*thin(steps, values), **style.line_style(i), **look)
    return [finite(values) for _, values in series]


def _time_axis(axes: Axes, runs: Sequence[Run]) -> None:
    """In log t, unless the learning rate is constant and most happens late."""
    schedules = {run.manifest.get("config", {}).get("schedule") for run in runs}
    axes.set_xlabel("t")
    if schedules == {"constant"}:
        style.step_axis(axes, runs)
    else:
        axes.set_xscale("log")
        axes.set_xlim(left=1, right=max((run.rows[-1]["step"] for run in runs if run.rows), default=10))
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
