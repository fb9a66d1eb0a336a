"""The look of every figure: colors, sizes, text, legends."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mada_lab.records.run_record import Run

Look = dict[str, Any]  # keywords of a line in a plot

# Okabe and Ito's palette without yellow and black: readable on white with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("solid", "dashed", "dotted", "dashdot")
INK, MUTED, GRID = "#1F2328", "#6A737D", "#E6E8EB"

#: Sizes in inches (72 SVG units each): a loss figure, and one panel of many.
WIDE, SMALL = (4.8, 3.05), (3.9, 2.5)

RAW: Look = {"alpha": 0.28, "linewidth": 0.8, "zorder": 2.0}
LINE: Look = {"linewidth": 1.6, "zorder": 3.0}

_RC = {
    "text.parse_math": False,  # "$" in a run's name is a dollar sign
    "axes.formatter.useoffset": False,
    "svg.fonttype": "none",
    "axes.titlesize": 10.5,
    **dict.fromkeys(("font.size", "axes.labelsize"), 9.5),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9.0),
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.facecolor": "white",
}


@contextmanager
def drawing(salt: str = "mada-lab") -> Iterator[None]:
    """Settings for drawing and saving, on top of matplotlib's defaults: a user's matplotlibrc changes nothing."""
    settings: dict[Any, Any] = {key: x for key, x in mpl.rcParamsDefault.items() if not key.startswith("backend")}
    settings |= _RC | {"svg.hashsalt": salt}
    with mpl.rc_context(settings):
        yield


def color(index: int) -> str:
    """The color of run number `index`; colors repeat after the seventh, with another dash pattern."""
    return COLORS[index % len(COLORS)]


def line_style(index: int) -> Look:
    """Color and dash pattern of run number `index`."""
    return {"color": color(index), "linestyle": DASHES[index // len(COLORS) % len(DASHES)]}


def dots(index: int) -> Look:
    """The markers of run number `index`."""
    marker = MARKERS[index % len(MARKERS)]
    return {"marker": marker, "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.6}


def printable(text: object, limit: int | None = None) -> str:
    """`text` on one line, without control, bidirectional or unpaired characters, the middle left out beyond `limit`."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    if limit is None or len(line) <= limit:
        return line
    return line[: limit // 2] + "…" + line[len(line) - (limit - limit // 2 - 1) :]


Lines = Sequence[tuple[str, Line2D]]


def legend(axes: Axes, lines: Lines, nothing: str = "", corner: str = "upper right") -> None:
    """A legend in a corner, or below the axes if it is long; `nothing` in the middle of axes without lines."""
    if not lines:
        say(axes, nothing)
    elif len(lines) <= 4:
        _add_legend(axes, lines, {"loc": corner})
    else:
        legend_below(axes.get_figure(root=True), lines)


def legend_below(figure: Figure, lines: Lines, columns: int = 2) -> None:
    """A legend below all axes of the figure, whose height grows by that of the legend."""
    _add_legend(figure, lines, {"loc": "outside lower left", "ncols": columns})
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(lines) // columns))


def _add_legend(on: Axes | Figure, lines: Lines, look: Look) -> None:
    numbers = [str(i) for i in range(len(lines))]  # matplotlib would leave out names that begin with an underscore
    box = on.legend([line for _, line in lines], numbers, **look)
    for text, (name, _) in zip(box.get_texts(), lines, strict=True):
        text.set_text(printable(name, 32))


def say(axes: Axes, message: str) -> None:
    """Writes `message` into the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def note(axes: Axes, message: str) -> None:
    """Writes `message` in small letters at the right above the axes."""
    axes.set_title(message, loc="right", fontsize=9, fontweight="normal", color=MUTED)


def step_axis(axes: Axes, runs: Sequence[Run]) -> None:
    """The horizontal axis of figures over steps: from 0 to the last step of any of the runs."""
    axes.set_xlabel("optimizer step")
    last = max((run.rows[-1]["step"] for run in runs if run.rows), default=0)
    axes.set_xlim(0, 1.02 * last or 1)  # the margin is for the marker of the last step
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


Panels = Mapping[str, Callable[[Axes], None]]  # by name, a function that draws a panel


@drawing()
def separate(panels: Panels, size: tuple[float, float]) -> dict[str, Figure]:
    """A figure for each panel, by its name."""
    figures = {name: Figure(figsize=size, layout="constrained") for name in panels}
    for name, draw in panels.items():
        draw(figures[name].add_subplot())
    return figures


@drawing()
def together(panels: Panels, size: tuple[float, float], names: Mapping[int, str]) -> Figure:
    """All panels in one figure, three in a row, with a legend of the runs with these numbers below."""
    columns = min(3, len(panels)) or 1
    rows = -(-len(panels) // columns) or 1
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    for i, draw in enumerate(panels.values()):
        draw(figure.add_subplot(rows, columns, i + 1))
    legend_below(figure, [(name, Line2D([], [], **line_style(i), **LINE)) for i, name in names.items()], columns)
    return figure
