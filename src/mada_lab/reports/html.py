"""Pages: sections of text, tables and figures, rendered by page.html.j2. Nothing here knows a run or an experiment.

A page loads nothing and runs no script, and the same sections give the same bytes. Text is escaped by the template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from mada_lab.plots.save import svg, write
from mada_lab.plots.style import printable

NONE, NOT_FINITE = "\N{EN DASH}", "not finite"


@dataclass(frozen=True)
class Label:
    """A run's name beside a sample of its line (color, SVG `stroke-dasharray`); `note` is small text below it."""

    name: str
    color: str
    dashes: str
    note: str = ""


Cell = str | Label | None


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is "" or a class of the style sheet."""

    form: ClassVar = "text"
    text: str
    kind: Literal["", "lead", "caption"] = ""


@dataclass(frozen=True)
class Listing:
    """Runs with some words about each: a list, or the legend of figures."""

    form: ClassVar = "listing"
    items: Sequence[tuple[Label, str]]
    kind: Literal["runs", "legend"] = "runs"


@dataclass(frozen=True)
class Table:
    """A table, in a box that scrolls sideways."""

    form: ClassVar = "table"
    head: Sequence[Cell]  #: titles of the columns; a newline breaks the line
    rows: Sequence[Sequence[Cell]]  #: the first cell of a row is its title. None is shown as a dash
    caption: str = ""  #: text below the table
    #: In "keys", cells that differ from the first run's are marked; "names" have names of code as titles
    kind: Literal["numbers", "names", "keys"] = "numbers"

    def markdown(self) -> str:
        """The table as Markdown, without its caption."""
        lines = [f"| {' | '.join(map(str, cells))} |" for cells in (self.head, *self.rows)]
        return "\n".join([lines[0], "|---" * len(self.head) + "|", *lines[1:]])


@dataclass(frozen=True)
class Figures:
    """Figures on white cards, with one caption."""

    form: ClassVar = "figures"
    #: By alt text, the description for readers who don't see the figure; unique on a page
    figures: Mapping[str, Figure]
    caption: str  #: text below them
    #: The width of a card: "whole" is one in a row, "wide" two, "small" three
    size: Literal["whole", "wide", "small"] = "wide"

    def drawn(self) -> list[Markup]:
        """Each figure as an SVG element."""
        return [Markup(svg(figure, alt)) for alt, figure in self.figures.items()]


@dataclass(frozen=True)
class Folded:
    """A part that a reader opens."""

    form: ClassVar = "folded"
    summary: str
    part: "Part"


Part = Text | Listing | Table | Figures | Folded


@dataclass(frozen=True)
class Section:
    """A section of a page; left out if it has no parts."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """A page; `intro` stands between the title and the first section."""

    title: str
    sections: Sequence[Section]
    intro: Sequence[Part] = field(default=())

    def html(self) -> str:
        """The page as text."""
        sections = [section for section in self.sections if section.parts]
        return _TEMPLATE.render(title=self.title, intro=self.intro, sections=sections)

    def write(self, path: Path) -> Path:
        """Writes the page to `path`, and returns `path`. Raises ConfigError if the file can't be written."""
        return write("report", path, self.html())


def number(value: float | None, spec: str) -> str:
    """A number in `spec`; a dash where there is none, and words where it is not finite."""
    if value is None:
        return NONE
    return format(value, spec) if isfinite(value) else NOT_FINITE


def _printable(x: object) -> object:
    return x if isinstance(x, Markup) else printable(x)


_TEMPLATE = Environment(
    loader=PackageLoader("mada_lab", "reports"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
    finalize=_printable,
).get_template("page.html.j2", globals={"none_shown": NONE, "not_finite": NOT_FINITE})
