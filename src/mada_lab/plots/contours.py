"""Final losses over the initial betas: one row per optimizer, training and validation loss side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mada_lab.plots import style
from mada_lab.plots.curves import Floats, finite

PANEL = (3.3, 2.35)  # size of a panel, in inches
MARGIN = 0.06  # around the cells, in which marks and tick labels at the corners have room
LEVELS = 10
#: Percentiles of the losses at which the colors end, so that a corner where training fails doesn't take them all.
SHOWN = (1, 95)
FAR = 4  # the colors end so many times as far above the median as the lowest loss is below it
LOSSES = ("training", "validation")
DOT: style.Look = {"marker": ".", "color": style.INK, "markersize": 1.6, "alpha": 0.6}
CROSS: style.Look = {"marker": "x", "color": style.COLORS[1], "markersize": 5}
STAR: style.Look = {
    "marker": "*", "color": "white", "markersize": 11, "markeredgecolor": style.INK, "markeredgewidth": 0.7
}  # fmt: skip
#: Light where the loss is low, dark where it is high; one hue, which any color vision tells apart.
COLORS = LinearSegmentedColormap.from_list("losses", ["#F4F8FB", "#9CC7E2", "#2F7FB8", "#0B3C5D"])
COLORS = COLORS.with_extremes(under="#FFFFFF", over="#051B2B")


@dataclass(frozen=True, eq=False)
class Surface:
    """The final losses of one optimizer over a grid of initial betas."""

    name: str  #: that of the optimizer
    beta1: Floats  #: shape (m,), rising
    beta2: Floats  #: shape (n,), rising
    training: Floats  #: training losses in nats, (m, n, seeds); NaN where a run failed or there is none
    validation: Floats  #: validation losses in nats, (m, n, seeds)
    ran: NDArray[np.bool_]  #: whether there is a run, (m, n, seeds)

    def losses(self, which: str) -> Floats:
        """`training` or `validation`."""
        return self.training if which == "training" else self.validation

    def mean(self, which: str) -> Floats:
        """Mean over the seeds that ran: shape (m, n). NaN where none did, or one failed."""
        count = self.ran.sum(axis=-1)
        total = np.where(self.ran, self.losses(which), 0.0).sum(axis=-1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def spread_over_seeds(self, which: str) -> float:
        """The standard deviation over seeds, pooled over the cells that have several; NaN if none has."""
        losses = self.losses(which)
        several = losses[np.isfinite(losses).sum(axis=-1) > 1]
        return float(np.sqrt(np.nanvar(several, axis=-1, ddof=1).mean())) if several.size else math.nan


@style.drawing()
def contours(surfaces: Sequence[Surface]) -> Figure:
    """Contours of the mean over seeds; each column has one scale and one kind of loss."""
    rows, width = len(surfaces), PANEL[0] * len(LOSSES)
    height = PANEL[1] * rows + 1.2
    figure = Figure(figsize=(width, height))
    inner = {"left": 0.65 / width, "right": 1 - 0.15 / width, "bottom": 1.45 / height, "top": 1 - 0.3 / height}
    places = figure.add_gridspec(rows, len(LOSSES), hspace=0.24, wspace=0.1, **inner)
    panels = places.subplots(sharex=True, sharey=True, squeeze=False)
    for column, which in enumerate(LOSSES):
        levels = levels_of([surface.mean(which) for surface in surfaces])
        norm = BoundaryNorm(levels, COLORS.N, extend="both")
        for axes, surface in zip(panels[:, column], surfaces, strict=True):
            _panel(axes, surface, which, levels, norm)
            axes.set(xlabel="initial β₁", ylabel="initial β₂")
            axes.label_outer()
        place = panels[-1, column].get_position()
        bar = figure.add_axes((place.x0, 0.8 / height, place.width, 0.11 / height))
        figure.colorbar(ScalarMappable(norm, COLORS), cax=bar, orientation="horizontal", ticks=levels[::2])
        bar.set_xlabel(f"final {which} loss (nats)")
        bar.tick_params(labelsize=8)
    marks = {"mean over seeds of a cell": DOT, "lowest mean": STAR, "a seed of the cell failed": CROSS}
    handles = [Line2D([], [], linestyle="none", **look) for look in marks.values()]
    figure.legend(handles, list(marks), loc="lower center", ncols=len(marks), fontsize=8.5)
    return figure


def levels_of(grids: Sequence[Floats]) -> Floats:
    """Round levels over the losses of all `grids`, without the lowest, the highest, and those far above the median."""
    values = finite(np.concatenate([grid.ravel() for grid in grids]))
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = (float(x) for x in np.percentile(values, SHOWN))
    middle = float(np.median(values))
    high = min(high, middle + FAR * (middle - low)) if middle > low else high
    levels = MaxNLocator(LEVELS).tick_values(low, high if high > low else low + 0.01)
    return np.asarray(levels, dtype=np.float64)


def _panel(axes: Axes, surface: Surface, which: str, levels: Floats, norm: BoundaryNorm) -> None:
    mean = surface.mean(which)
    axes.grid(visible=False)
    if np.isfinite(mean).all() and min(mean.shape) > 1:
        axes.contourf(surface.beta1, surface.beta2, mean.T, cmap=COLORS, levels=levels, norm=norm, extend="both")
        axes.contour(surface.beta1, surface.beta2, mean.T, levels=levels, colors="white", linewidths=0.5)
    else:  # contours would fill in cells without a mean
        axes.pcolormesh(_edges(surface.beta1), _edges(surface.beta2), mean.T, cmap=COLORS, norm=norm)
    _mark(axes, surface, mean)
    axes.use_sticky_edges = False
    axes.margins(MARGIN)
    spread = f"{np.nanmin(mean):.3f} to {np.nanmax(mean):.3f}" if np.isfinite(mean).any() else "no finite loss"
    axes.set_title(f"{style.printable(surface.name, 16)}: {which}")
    style.note(axes, spread)


def _mark(axes: Axes, surface: Surface, mean: Floats) -> None:
    """A dot at each cell, a cross at each that failed, a star at the lowest."""
    beta1, beta2 = np.meshgrid(surface.beta1, surface.beta2, indexing="ij")
    known = np.isfinite(mean)
    axes.plot(beta1[known], beta2[known], linestyle="none", **DOT)
    axes.plot(beta1[~known], beta2[~known], linestyle="none", clip_on=False, **CROSS)
    if known.any():
        i, j = np.unravel_index(np.nanargmin(mean), mean.shape)
        axes.plot([surface.beta1[i]], [surface.beta2[j]], clip_on=False, zorder=5, **STAR)


def _edges(points: Floats) -> Floats:
    """Where the cells around the points end."""
    if len(points) == 1:
        return np.array([points[0] - 0.01, points[0] + 0.01])
    middle = (points[1:] + points[:-1]) / 2
    ends = np.clip([2 * points[0] - middle[0], 2 * points[-1] - middle[-1]], 0.0, 1.0)
    return np.concatenate([ends[:1], middle, ends[1:]])
