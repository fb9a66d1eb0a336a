"""Groups of runs that differ in their seed: losses over steps, final losses, losses over the learning rate."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mada_lab.plots import style
from mada_lab.plots.curves import Floats, finite, floats, loss_range

#: Steps, and the losses of all seeds at these steps, (seeds, steps); NaN where a loss was not finite.
Band = tuple[Sequence[int], Floats]
#: The final losses of a group, one per seed; NaN for a run that failed.
Ends = Sequence[float]

SIZE = (6.4, 3.6)
BAR = 0.27  # height of a bar, in inches
#: Losses farther from the median than so many times the distance of the best, or of most, are outside of a figure.
REACH = 3.0


@style.drawing()
def bands(groups: Mapping[str, Band], title: str) -> Figure:
    """The mean over seeds of each group, and the range from the lowest to the highest seed."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="optimizer step", ylabel="loss (nats)")
    lines, curves = [], []
    for i, (name, (steps, losses)) in enumerate(groups.items()):
        if not np.isfinite(losses).any():
            continue
        known = np.ma.masked_invalid(losses)
        low, mean, high = (floats(f(axis=0).filled(np.nan)) for f in (known.min, known.mean, known.max))
        axes.fill_between(steps, low, high, color=style.color(i), alpha=0.13, linewidth=0)
        lines += [(name, line) for line in axes.plot(steps, mean, **style.line_style(i), **style.LINE)]
        curves += [(steps, low), (steps, high)]
    axes.set_ylim(*loss_range(curves))
    axes.set_xlim(0, max((steps[-1] for steps, _ in curves), default=1))
    style.legend(axes, lines, "no finite loss")
    return figure


@style.drawing()
def lr_lines(rates: Sequence[float], groups: Mapping[str, Sequence[Ends]], title: str) -> Figure:
    """Final losses at each learning rate: the mean over seeds of each optimizer, and a dot per seed."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="base learning rate", ylabel="final loss (nats)", xscale="log")
    lines = []
    for i, (name, losses) in enumerate(groups.items()):
        look = {**style.line_style(i), **style.dots(i), **style.LINE}
        lines += [(name, line) for line in axes.plot(rates, list(map(fmean, losses)), **look)]
        for rate, values in zip(rates, losses, strict=True):
            axes.plot([rate] * len(values), values, ".", color=style.color(i), markersize=3, alpha=0.5)
    known = finite([x for losses in groups.values() for values in losses for x in values])
    low, middle = float(known.min()), float(np.median(known))
    high = min(float(known.max()), middle + REACH * (middle - low))
    margin = 0.06 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)
    style.legend(axes, lines)
    return figure


@style.drawing()
def bars(losses: Mapping[str, Ends], paired: Mapping[str, Ends], title: str) -> Figure:
    """Final losses as points, and paired differences from the first group as bars; whiskers are standard deviations."""
    figure = Figure(figsize=(6.2, 1.1 + BAR * len(losses)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = [style.printable(name, 24) for name in losses]
    left.set(title=title, xlabel="final loss (nats): mean, sd, seeds", ylabel="optimizer")
    right.set_xlabel(f"difference from {names[0]}, paired by seed")
    right.axvline(0.0, color=style.MUTED, linewidth=0.8, zorder=1.9)
    for i, name in enumerate(losses):
        _points(left, i, losses[name])
        if i:
            _bar(right, i, paired[name])
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    _frame(left, list(losses.values()))
    _frame(right, list(paired.values()), whole=(0.0,))
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
    return figure


def _points(axes: Axes, row: int, values: Ends) -> None:
    known = finite(values)
    if not len(known):
        axes.text(0.02, row, "failed", transform=axes.get_yaxis_transform(), va="center", color=style.COLORS[1])
        return
    axes.plot(known, [row] * len(known), "o", color=style.color(row), markersize=3.5, alpha=0.45, zorder=3)
    axes.errorbar(known.mean(), row, xerr=_sd(known), fmt="|", color=style.INK, markersize=11, capsize=3, zorder=4)


def _bar(axes: Axes, row: int, values: Ends) -> None:
    known = finite(values)
    if len(known):
        axes.barh(row, known.mean(), height=0.6, color=style.color(row), alpha=0.75, zorder=2)
        axes.plot(known, [row] * len(known), "o", color=style.INK, markersize=2.5, alpha=0.6, zorder=3)
        axes.errorbar(known.mean(), row, xerr=_sd(known), fmt="none", ecolor=style.INK, capsize=3, zorder=4)


def _sd(known: Floats) -> float:
    return float(known.std(ddof=1)) if len(known) > 1 else 0.0


def _frame(axes: Axes, groups: Sequence[Ends], whole: Sequence[float] = ()) -> None:
    """Sets the range to that of most values, with the whiskers of their groups and `whole`; notes how many are beyond.

    A whisker that a value beyond the range stretches is cut.
    """
    known = [x for values in groups if len(x := finite(values))]
    if not known:
        return
    values = np.concatenate(known)
    middle, inner = np.median(values), np.percentile(np.abs(values - np.median(values)), 80)
    reach = REACH * inner if inner > 0 else math.inf
    low, high = max(values.min(), middle - reach), min(values.max(), middle + reach)
    held = [x for x in known if low <= x.min() and x.max() <= high]
    low = min([low, *whole, *(x.mean() - _sd(x) for x in held)])
    high = max([high, *whole, *(x.mean() + _sd(x) for x in held)])
    margin = 0.08 * (high - low) or 0.01
    axes.set_xlim(low - margin, high + margin)
    if beyond := sum(x > high + margin or x < low - margin for x in values):
        style.note(axes, f"{beyond} beyond")
