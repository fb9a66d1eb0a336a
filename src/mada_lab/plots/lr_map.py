"""Final losses over the base learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from mada_lab.plots import style
from mada_lab.plots.curves import finite

REACH = 3.0
"""The figure ends at so many times the lowest loss's distance from the middle one: the worst is beyond, and leaves."""


@dataclass(frozen=True)
class Line:
    """Final losses of one optimizer: for each learning rate, one per seed."""

    name: str
    rates: Sequence[float]
    losses: Sequence[Sequence[float]]


@style.drawing()
def lr_lines(lines: Sequence[Line], title: str) -> Figure:
    """The mean over seeds of each line, and a dot per seed."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="base learning rate", ylabel="final loss (nats)", xscale="log")
    handles = []
    for i, line in enumerate(lines):
        means = [fmean(values) for values in line.losses]
        handles += axes.plot(line.rates, means, **style.line_style(i), **style.dots(i), **style.LINE)
        for rate, values in zip(line.rates, line.losses, strict=True):
            axes.plot([rate] * len(values), values, ".", color=style.color(i), markersize=3, alpha=0.5)
    known = finite([x for line in lines for values in line.losses for x in values])
    low, middle = float(known.min()), float(np.median(known))
    high = min(float(known.max()), middle + REACH * (middle - low))
    margin = 0.06 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)
    style.legend(axes, handles, [line.name for line in lines])
    return figure
