"""Figures as files, and as elements of a page. The same figure gives the same bytes."""

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib.figure import Figure

from mada_lab.errors import ConfigError
from mada_lab.plots import style
from mada_lab.system.files import make_folder, write_atomic

_NAMESPACE = re.compile(r"\{[^}]*\}")
_SVG = "http://www.w3.org/2000/svg"
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"dpi": 150, "metadata": {"Software": None}},
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
}


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Writes each figure to `folder` under its name as PNG and as SVG; returns the files. Raises as `save`."""
    stems = {re.sub(r"[^\w.-]+", "_", name): figure for name, figure in figures.items()}
    return [save(figure, folder / f"{stem}{end}") for stem, figure in stems.items() for end in (".png", ".svg")]


def save(figure: Figure, path: Path) -> Path:
    """Writes `figure` to `path`, and returns `path`. Raises ConfigError for an ending that is none of FORMATS."""
    if path.suffix not in FORMATS:
        what = f"expected a name that ends with {', '.join(FORMATS)}, got {path.name}; rename it"
        raise ConfigError(f"figure, {path}: {what}")
    return write("figure", path, rendered(figure, path.suffix[1:], path.stem, FORMATS[path.suffix]))


def write(kind: str, path: Path, content: str | bytes) -> Path:
    """Writes `content` to `path`, and returns `path`. Raises ConfigError, about a `kind`, if that fails."""
    try:
        make_folder(path.parent)
        write_atomic(path, content)
    except OSError as error:
        what = f"expected a file that can be written, got {error.strerror}; choose another place"
        raise ConfigError(f"{kind}, {path}: {what}") from error
    return path


def rendered(figure: Figure, form: str, salt: str, options: Mapping[str, Any]) -> bytes:
    """The figure as the content of a file."""
    file = io.BytesIO()
    with style.drawing(salt=salt), warnings.catch_warnings():
        # A character that matplotlib's font lacks is drawn by the reader's browser, from a font of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format=form, **options)
    return file.getvalue()


def svg(figure: Figure, alt: str) -> str:
    """The figure as an `<svg>` element that can share a page with others.

    Args:
        figure: A figure drawn under `style.drawing`.
        alt: A description for readers who don't see it. Unique on a page: ids begin with a digest of it.
    """
    prefix = "f" + hashlib.sha256(alt.encode(errors="replace")).hexdigest()[:8]
    root = ElementTree.fromstring(rendered(figure, "svg", prefix, {}))
    _make_inline(root, prefix)
    size = f"0 0 {root.get('viewBox', '').split(' ', 2)[2]}"
    root.attrib = {
        "xmlns": _SVG,
        "viewBox": size,
        "role": "img",
        "aria-label": style.printable(alt),
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _make_inline(root: ElementTree.Element, prefix: str) -> None:
    """Removes what would change the page: namespaces, metadata, the figure's style sheet, fonts."""
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
