"""Figures as files, each as PNG and as SVG."""

import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mada_lab.errors import ConfigError
from mada_lab.plots import style
from mada_lab.system.files import make_folder, write_atomic

FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 150, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
}


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Writes each figure to `folder` under its name, and returns the files; the same figures give the same bytes.

    Raises:
        ConfigError: The folder can't be made or written.
    """
    written = []
    try:
        make_folder(folder)
        for name, figure in figures.items():
            stem = re.sub(r"[^\w.-]+", "_", name)
            for format in FORMATS:
                path = folder / f"{stem}.{format}"
                write_atomic(path, rendered(figure, format, stem))
                written.append(path)
    except OSError as error:
        what = f"expected a folder that can be made and written, got {error.strerror}; choose another place"
        raise ConfigError(f"figures, {folder}: {what}") from error
    return written


def rendered(figure: Figure, format: str, salt: str) -> bytes:
    """The figure as the content of a file."""
    with style.drawing(salt=salt), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        file = io.BytesIO()
        figure.savefig(file, format=format, **FORMATS[format])
    return file.getvalue()
