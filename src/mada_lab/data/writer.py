"""A file that is written piece by piece, with its digest."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from mada_lab.system.files import NewFile


class HashedFile:
    """A new file in a folder that `files.new_folder` makes.

    Attributes:
        rows: Rows written so far.
        bytes: Their length.
    """

    def __init__(self, path: Path) -> None:
        self._file = NewFile(path)
        self._digest = hashlib.sha256()
        self.rows = self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Closes the file. What is buffered is written and flushed here, or fails here."""
        self._file.__exit__(kind, error, _)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the content so far."""
        return self._digest.hexdigest()

    def write(self, array: NDArray[Any]) -> None:
        """Appends the rows of a contiguous, little-endian array."""
        self._file.write(array.data.cast("B"))
        self._digest.update(array.data)
        self.rows += len(array)
        self.bytes += array.nbytes
