"""The figures of `benchmarks.towers`."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.towers import CEILING, FAMILIES, HEIGHTS, KINDS, Result, curve
from mada_lab.plots import style

FLOOR = 1e-3
LABELS = {
    "lr": "learning rate of the lowest optimizer at the start",
    "top": "learning rate of the highest optimizer",
    "all": "learning rate of every optimizer above the lowest",
}
FILES = {"lr": "towers", "top": "towers_top", "all": "towers_all"}


def draw(results: Sequence[Result], folder: Path) -> None:
    """Writes one figure for each thing that is varied into `folder`, as svg and as png."""
    for varied, name in FILES.items():
        with style.drawing(salt=name):
            figure = panels(results, varied)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            figure.savefig(folder / f"{name}.png", dpi=110)


def panels(results: Sequence[Result], varied: str) -> Figure:
    """A row for each kind of loss, a column for each family."""
    figure = Figure(figsize=(2.7 * len(FAMILIES), 5.4), layout="constrained")
    grid = figure.subplots(len(KINDS), len(FAMILIES), sharex=True, sharey="row", squeeze=False)
    for row, kind in zip(grid, KINDS, strict=True):
        for axes, name in zip(row, FAMILIES, strict=True):
            panel(axes, results, name, varied, kind)
        row[0].set_ylabel(f"{kind} loss at the end (nats)")
    for axes, family in zip(grid[0], FAMILIES.values(), strict=True):
        axes.set_title(family.title)
    figure.supxlabel(f"{LABELS[varied]}   (number at a line: how many optimizers are above the lowest)", fontsize=9.5)
    return figure


def panel(axes: Axes, results: Sequence[Result], family: str, varied: str, kind: str) -> None:
    """Median over the seeds and their range, for each height."""
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_formatter(FuncFormatter(power))
    axes.yaxis.set_major_formatter(FuncFormatter(power))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(FLOOR if kind == "training" else 0.07, 1.6 * CEILING)
    axes.axhline(CEILING, color=style.MUTED, linewidth=0.7, linestyle="dotted")
    ends = {}
    for height in HEIGHTS:
        losses = curve(results, family, varied, height, kind)
        if not losses:
            continue
        x = sorted(losses)
        y = [shown(median(losses[value])) for value in x]
        low, high = ([shown(pick(losses[value])) for value in x] for pick in (min, max))
        axes.fill_between(x, low, high, color=style.color(height), alpha=0.12, linewidth=0)
        axes.plot(x, y, **style.line_style(height), **style.LINE, **style.dots(height))
        ends[height] = (x[-1], y[-1])
    axes.set_xlim(0.5 * x[0], 12 * x[-1])
    axes.set_xticks(x[::2])
    label(axes, ends)


def power(x: float, _: object = None) -> str:
    """10 to a whole power; where everything worse is drawn, a sign that says so."""
    exponent = str(round(math.log10(x))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return {1.0: "1", 10.0: "10"}.get(x, f"10{exponent}")


def shown(loss: float) -> float:
    """The loss within what is drawn."""
    return min(max(loss, FLOOR), CEILING)


def label(axes: Axes, ends: dict[int, tuple[float, float]]) -> None:
    """The height at the right end of each line, moved apart where lines meet."""
    low, high = (math.log(y) for y in axes.get_ylim())
    order = sorted(ends, key=lambda height: (ends[height][1], height))
    for height, y in zip(order, apart([math.log(ends[h][1]) for h in order], 0.085 * (high - low), high), strict=True):
        axes.annotate(
            str(height),
            ends[height],
            (4.5 * ends[height][0], math.exp(y)),
            color=style.color(height),
            fontweight="bold",
            va="center",
            arrowprops={"arrowstyle": "-", "color": style.color(height), "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )


def apart(heights: Sequence[float], room: float, top: float) -> list[float]:
    """Rising numbers moved to be at least `room` apart and `room / 2` below `top`."""
    placed: list[float] = []
    for y in heights:
        placed.append(max(y, placed[-1] + room) if placed else y)
    ceiling = top - room / 2
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - room
    return placed
