"""The look of every figure, and its way into a page: colours, sizes, text, and SVG with stable output."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mada_lab.records.run_record import Run

Look = dict[str, Any]
"""Keywords of a line in a plot."""

# Okabe and Ito's palette, less the yellow and the black: it is told apart with any colour vision, on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("solid", "dashed", "dotted", "dashdot")
INK, MUTED, GRID = "#1F2328", "#6A737D", "#E6E8EB"

WIDE, SMALL = (4.8, 3.05), (3.9, 2.3)
"""Sizes in inches (72 SVG units each): a loss figure, and one panel of many."""

RAW: Look = {"alpha": 0.28, "linewidth": 0.8, "zorder": 2.0}
LINE: Look = {"linewidth": 1.6, "zorder": 3.0}

_RC = {
    "text.parse_math": False,  # "$" in a run's name is a dollar sign
    "axes.formatter.useoffset": False,
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.facecolor": "white",
}
_NAMESPACE = re.compile(r"\{[^}]*\}")
_SVG = "http://www.w3.org/2000/svg"


@contextmanager
def drawing(salt: str = "mada-lab") -> Iterator[None]:
    """Settings for drawing and saving, on top of matplotlib's defaults: a user's matplotlibrc changes nothing."""
    settings: dict[Any, Any] = {key: x for key, x in mpl.rcParamsDefault.items() if not key.startswith("backend")}
    settings |= _RC | {"svg.hashsalt": salt}
    with mpl.rc_context(settings):
        yield


def colour(index: int) -> str:
    """The colour of run number `index`; colours repeat after the seventh, with another dash pattern."""
    return COLOURS[index % len(COLOURS)]


def line_style(index: int) -> Look:
    """Colour and dash pattern of run number `index`."""
    return {"color": colour(index), "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


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


def legend(axes: Axes, handles: Sequence[Line2D], names: Sequence[str], corner: str = "upper right") -> None:
    """A legend with `names` as they are, in the corner that the lines leave free, or below if it is long.

    matplotlib on its own leaves out names that begin with an underscore.
    """
    if len(names) <= 4:
        box = axes.legend(handles, _numbers(names), loc=corner)
        _name(box, names)
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    legend_below(figure, handles, names)


def legend_below(figure: Figure, handles: Sequence[Line2D], names: Sequence[str], columns: int = 2) -> None:
    """A legend under all that the figure has, which grows by it."""
    _name(figure.legend(handles, _numbers(names), loc="outside lower left", ncols=columns), names)
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(names) // columns))


def _numbers(names: Sequence[str]) -> list[str]:
    return [str(i) for i in range(len(names))]


def _name(box: Legend, names: Sequence[str]) -> None:
    for text, name in zip(box.get_texts(), names, strict=True):
        text.set_text(printable(name, 32))


def sample(index: int) -> Line2D:
    """The line that stands for run number `index` in a legend."""
    return Line2D([], [], **line_style(index), **LINE)


def say(axes: Axes, message: str) -> None:
    """Writes `message` into the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def step_axis(axes: Axes, runs: Sequence[Run]) -> None:
    """One horizontal range for all figures of these runs: from 0 to the last step of any."""
    last = max((run.rows[-1]["step"] for run in runs if run.rows), default=0)
    axes.set_xlim(0, 1.02 * last or 1)  # the margin is for the marker of the last step
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def svg(figure: Figure, prefix: str, description: str) -> str:
    """The figure as an `<svg>` element that can share a page with others.

    Args:
        figure: A figure drawn under `drawing`.
        prefix: Begins every id, so that those of several figures in a page are different.
        description: What the figure shows, for those who don't see it.
    """
    with drawing(salt=prefix), warnings.catch_warnings():
        # A character that matplotlib's font lacks is drawn by the reader's browser, from a font of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        file = io.BytesIO()
        figure.savefig(file, format="svg")
    root = ElementTree.fromstring(file.getvalue())
    _make_inline(root, prefix)
    size = f"0 0 {root.get('viewBox', '').split(' ', 2)[2]}"
    root.attrib = {
        "xmlns": _SVG,
        "viewBox": size,
        "role": "img",
        "aria-label": printable(description),
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _make_inline(root: ElementTree.Element, prefix: str) -> None:
    """Takes out what a page must not get from a figure: namespaces, the date, a style sheet for everything, fonts."""
    for parent in list(root.iter()):
        for child in list(parent):
            if _NAMESPACE.sub("", child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
        element.attrib = {_NAMESPACE.sub("", key): _attribute(key, x, prefix) for key, x in element.attrib.items()}


def _attribute(key: str, value: str, prefix: str) -> str:
    name = _NAMESPACE.sub("", key)
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    if name == "style":  # the family is the page's
        return re.sub(r"font-family: [^;]*;? ?", "", value)
    return value.replace("url(#", f"url(#{prefix}-")
