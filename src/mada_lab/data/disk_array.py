"""Arrays that stay on the disk.

Files are read, never memory-mapped: if another process shortens a mapped file, this process dies by a signal; a short
read is an ordinary error.
"""

import math
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mada_lab.errors import DataError

CHUNK_BYTES = 4 << 20


class DiskArray:
    """An array in a little-endian file, indexed like a numpy array along its first dimension.

    Attributes:
        path: The file.
        dtype: Type of an element.
        shape: Number of rows, then the shape of a row.
        fault: Error of a check in the background; the next read raises it.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], limit: int, remedy: str) -> None:
        """Opens a file.

        Args:
            path: The file.
            dtype: Unsigned integer type of an element.
            shape: Number of rows, then the shape of a row.
            limit: Upper bound (exclusive) of the elements, checked at each read.
            remedy: End of the message for a damaged file.

        Raises:
            DataError: The file can't be read, or has another length.
        """
        self.path, self.dtype, self.shape = path, dtype, shape
        self.fault: DataError | None = None
        self._limit, self._remedy = limit, remedy
        self._row_size = math.prod(shape[1:])
        self._row_bytes = self._row_size * dtype.itemsize
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"data, in {path}: expected a readable file, got {error.strerror}; {remedy}") from error
        weakref.finalize(self, os.close, self._descriptor)
        self._require_length()

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Length of the file."""
        return len(self) * self._row_bytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | NDArray[Any]) -> NDArray[Any]:
        """Reads rows.

        Args:
            rows: A row, a slice without step, or the numbers of rows in one dimension.

        Returns:
            A row, or an array of rows: a copy.

        Raises:
            DataError: The file was shortened or is damaged, or an element is out of range.
        """
        if self.fault is not None:
            raise self.fault
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                raise IndexError(f"{self.path}: a slice of rows can't have a step")
            return self._read(start, max(stop - start, 0))
        if np.ndim(rows) == 0:  # a number, as numpy has it: negative ones count from the end
            row: NDArray[Any] = self._read(range(len(self))[int(rows)], 1)[0]
            return row
        numbers = np.asarray(rows)
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for place, row in enumerate(numbers.tolist()):
            found[place] = self[row]
        return found

    def chunks(self) -> Iterator[NDArray[Any]]:
        """Yields all rows in order, some at a time. Raises DataError as indexing does."""
        rows = max(CHUNK_BYTES // self._row_bytes, 1)
        for start in range(0, len(self), rows):
            yield self[start : start + rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole content, for numpy."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, start: int, count: int) -> NDArray[Any]:
        found = np.empty((count, *self.shape[1:]), self.dtype)
        view, offset = memoryview(found.reshape(-1).view(np.uint8).data), start * self._row_bytes
        while view:
            content = os.pread(self._descriptor, len(view), offset)
            if not content:
                self._require_length()
                raise DataError(f"data, in {self.path}: expected {len(view)} bytes more, got none; {self._remedy}")
            view[: len(content)] = content
            view, offset = view[len(content) :], offset + len(content)
        self._require_range(found, start)
        return found

    def _require_length(self) -> None:
        actual = os.fstat(self._descriptor).st_size
        if actual != self.nbytes:
            raise DataError(f"data, in {self.path}: expected {self.nbytes} bytes, got {actual}; {self._remedy}")

    def _require_range(self, found: NDArray[Any], start: int) -> None:
        """Raises DataError for the first element that is too large."""
        if self._limit > np.iinfo(self.dtype).max or found.size == 0 or found.max() < self._limit:
            return
        at = int(np.argmax(found.reshape(-1) >= self._limit))
        raise DataError(
            f"data, in {self.path}: expected numbers in [0, {self._limit}), got {found.reshape(-1)[at]} "
            f"at offset {start * self._row_size + at}; {self._remedy}"
        )
