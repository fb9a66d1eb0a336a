"""A file that is written piece by piece, with its digest."""

import hashlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mada_lab.system.files import NewFile


class HashedFile(NewFile):
    """A new file of rows, in a folder that `files.new_folder` makes.

    Attributes:
        rows: Rows written so far.
        bytes: Their length.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._digest = hashlib.sha256()
        self.rows = self.bytes = 0

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the content so far."""
        return self._digest.hexdigest()

    def append(self, array: NDArray[Any]) -> None:
        """Appends the rows of a contiguous, little-endian array."""
        self.write(array.data.cast("B"))
        self._digest.update(array.data)
        self.rows += len(array)
        self.bytes += array.nbytes
