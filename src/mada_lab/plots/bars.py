"""Optimizers compared: their losses over steps with the range of seeds, and their final differences from the first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mada_lab.plots import style
from mada_lab.plots.curves import Floats, finite, floats, loss_range

BAR = 0.27
"""Height of a bar, in inches."""


@dataclass(frozen=True, eq=False)
class Band:
    """A loss over steps, of several seeds.

    Attributes:
        name: Whose.
        steps: Shape (steps,).
        losses: Shape (seeds, steps); NaN where it was not finite.
    """

    name: str
    steps: Sequence[int]
    losses: Floats


@dataclass(frozen=True)
class Bar:
    """What one optimizer ended with.

    Attributes:
        name: Its name.
        values: Per seed, NaN for one that failed.
    """

    name: str
    values: Sequence[float]


@style.drawing()
def bands(given: Sequence[Band], title: str) -> Figure:
    """The mean over seeds of each band, and the range from the lowest to the highest seed."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="optimizer step", ylabel="loss (nats)")
    shown = [(i, band) for i, band in enumerate(given) if np.isfinite(band.losses).any()]
    handles, means = [], []
    for i, band in shown:
        known = np.ma.masked_invalid(band.losses)
        low, mean, high = (floats(f(axis=0).filled(np.nan)) for f in (known.min, known.mean, known.max))
        axes.fill_between(band.steps, low, high, color=style.color(i), alpha=0.13, linewidth=0)
        handles += axes.plot(band.steps, mean, **style.line_style(i), **style.LINE)
        means.append((band.steps, mean))
    axes.set_ylim(*loss_range(means))
    axes.set_xlim(0, max((steps[-1] for steps, _ in means), default=1))
    if handles:
        style.legend(axes, handles, [band.name for _, band in shown])
    else:
        style.say(axes, "no finite loss")
    return figure


@style.drawing()
def bars(losses: Sequence[Bar], paired: Sequence[Bar], title: str) -> Figure:
    """Final losses as points, and paired differences from the first as bars; whiskers are standard deviations.

    Losses have no zero worth starting a bar from; differences have.
    """
    figure = Figure(figsize=(6.2, 1.1 + BAR * len(losses)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_title(title)
    left.set_xlabel("final loss (nats): mean, sd, seeds")
    left.set_ylabel("optimizer")
    right.set_xlabel(f"difference from {style.printable(losses[0].name, 24)}, paired by seed")
    right.axvline(0.0, color=style.MUTED, linewidth=0.8, zorder=1.9)
    for i, (bar, difference) in enumerate(zip(losses, paired, strict=True)):
        _points(left, i, bar.values)
        if i:
            _bar(right, i, difference.values)
    left.set_yticks(range(len(losses)), [style.printable(bar.name, 24) for bar in losses])
    left.set_ylim(len(losses) - 0.4, -0.6)
    for axes, values in ((left, losses), (right, paired)):
        _frame(axes, [x for bar in values for x in finite(bar.values)])
        axes.grid(visible=False, axis="y")
    return figure


def _points(axes: Axes, row: int, values: Sequence[float]) -> None:
    known = finite(values)
    if not len(known):
        axes.text(0.02, row, "failed", transform=axes.get_yaxis_transform(), va="center", color=style.COLORS[1])
        return
    axes.plot(known, [row] * len(known), "o", color=style.color(row), markersize=3.5, alpha=0.45, zorder=3)
    axes.errorbar(known.mean(), row, xerr=_sd(known), fmt="|", color=style.INK, markersize=11, capsize=3, zorder=4)


def _bar(axes: Axes, row: int, values: Sequence[float]) -> None:
    known = finite(values)
    if len(known):
        axes.barh(row, known.mean(), height=0.6, color=style.color(row), alpha=0.75, zorder=2)
        axes.plot(known, [row] * len(known), "o", color=style.INK, markersize=2.5, alpha=0.6, zorder=3)
        axes.errorbar(known.mean(), row, xerr=_sd(known), fmt="none", ecolor=style.INK, capsize=3, zorder=4)


def _sd(known: Floats) -> float:
    return float(known.std(ddof=1)) if len(known) > 1 else 0.0


def _frame(axes: Axes, values: Sequence[float]) -> None:
    """A range that a failed optimizer doesn't take for itself: what is far out leaves it, with an arrow at the edge."""
    if not values:
        return
    low, high = np.percentile(values, (0, 100))
    middle, inner = np.median(values), np.percentile(np.abs(values - np.median(values)), 80)
    reach = 3.0 * inner if inner > 0 else math.inf
    low, high = max(low, middle - reach), min(high, middle + reach)
    margin = 0.08 * (high - low) or 0.01
    axes.set_xlim(low - margin, high + margin)
    beyond = sum(x > high + margin or x < low - margin for x in values)
    if beyond:
        style.note(axes, f"{beyond} beyond")
