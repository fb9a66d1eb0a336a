"""A figure as a file of its own."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from mada_lab.errors import ConfigError
from mada_lab.plots import style
from mada_lab.system import files

KINDS = (".png", ".svg", ".pdf")
DPI = 110


def save(figure: Figure, path: Path) -> None:
    """Writes `figure`, drawn under `style.drawing`, to `path`; the same figure gives the same bytes.

    Raises:
        ConfigError: The ending is none of KINDS, or the file can't be written.
    """
    if path.suffix not in KINDS:
        raise ConfigError(
            f"figure, {path}: expected a name that ends with {', '.join(KINDS)}, got {path.name}; rename it"
        )
    dated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    file = io.BytesIO()
    with style.drawing():
        figure.savefig(file, format=path.suffix[1:], dpi=DPI, metadata=dated[path.suffix])
    try:
        files.make_folder(path.parent)
        files.write_atomic(path, file.getvalue())
    except OSError as error:
        what = f"expected a file that can be written, got {error.strerror}; choose another place"
        raise ConfigError(f"figure, {path}: {what}") from error
