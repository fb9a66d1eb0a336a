"""Reads single members of archives. Nothing is extracted to the disk, so an archive can't write anywhere."""

import gzip
import io
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mada_lab.data.download import describe
from mada_lab.errors import DataError

REMEDY = "fetch the file again"
MOST_MEMBERS = 1000
OVERHEAD_BYTES = 1 << 20  # headers and small members beside the wanted ones
ZIP_DIRECTORY_BYTES = 1 << 16  # room for hundreds of members
#: Errors of the standard library and numpy for damaged bytes.
DAMAGED = (
    ArithmeticError,
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    tarfile.TarError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
ZIP_TAIL = struct.Struct("<4s4H2LH")


class _Capped(io.RawIOBase):
    """A stream that raises DataError after `limit` bytes: an archive may unpack to much more than it should."""

    def __init__(self, source: gzip.GzipFile, limit: int, where: str) -> None:
        self._source, self._left, self._where = source, limit, where

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self._source.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(f"archive, in {self._where}: expected its members alone, got more; {REMEDY}")
        return content


def tar_members(path: Path, expected: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the wanted members of a tar.gz, in the archive's order.

    Args:
        path: The archive.
        expected: Names of the members, and their lengths.

    Raises:
        DataError: A member is missing, double, not a file or of another length; or the archive is damaged or too large.
    """
    missing = dict(expected)
    limit = sum(expected.values()) + OVERHEAD_BYTES
    try:
        with gzip.open(path) as unpacked, tarfile.open(fileobj=_Capped(unpacked, limit, str(path)), mode="r|") as tar:
            for number, member in enumerate(tar):
                if number == MOST_MEMBERS:
                    raise DataError(f"archive, in {path}: expected {MOST_MEMBERS} members at most, got more; {REMEDY}")
                if member.name not in expected:
                    continue
                length = missing.pop(member.name, None)
                content = tar.extractfile(member) if member.isreg() and member.size == length else None
                if content is None:
                    raise _unexpected(path, member.name, f"one file of {expected[member.name]} bytes")
                yield member.name, content.read()
    except DAMAGED as error:
        raise DataError(f"archive, in {path}: expected tar.gz, got {describe(error)}; {REMEDY}") from error
    if missing:
        raise _unexpected(path, next(iter(missing)), "it there")


def npz_arrays(path: Path, expected: Mapping[str, str], max_bytes: int) -> dict[str, NDArray[Any]]:
    """Reads arrays from a numpy `.npz`; nothing is unpickled.

    Args:
        path: The archive.
        expected: Names of the arrays, and the kind of each: `u1`, `i8`, ... or `U` for strings of any length.
        max_bytes: The most that an array may unpack to.

    Returns:
        One-dimensional arrays, by name.

    Raises:
        DataError: An array is missing, is of another type, or is too large; or the archive is damaged.
    """
    try:
        with open(path, "rb") as file:
            _require_small_directory(file, path)
            with zipfile.ZipFile(file) as archive:
                return {name: _npz_array(archive, path, name, kind, max_bytes) for name, kind in expected.items()}
    except DAMAGED as error:
        raise DataError(f"archive, in {path}: expected npz, got {describe(error)}; {REMEDY}") from error


def _require_small_directory(file: io.BufferedReader, path: Path) -> None:
    """Raises DataError unless the zip file ends as numpy ends it: with a short directory, and no comment."""
    file.seek(0, io.SEEK_END)
    length = file.tell()
    file.seek(max(length - ZIP_TAIL.size - 20, 0))  # 20 is the length of the pointer to a 64-bit directory
    tail = file.read()
    end = tail[-ZIP_TAIL.size :]
    good = len(end) == ZIP_TAIL.size and end.startswith(b"PK\x05\x06") and not tail.startswith(b"PK\x06\x07")
    if not good or ZIP_TAIL.unpack(end)[5] > ZIP_DIRECTORY_BYTES:
        raise DataError(
            f"archive, in {path}: expected a zip file with a directory of at most {ZIP_DIRECTORY_BYTES} bytes at its "
            f"end, got another; {REMEDY}"
        )


def _npz_array(archive: zipfile.ZipFile, path: Path, name: str, kind: str, max_bytes: int) -> NDArray[Any]:
    member = f"{name}.npy"
    if archive.namelist().count(member) != 1:
        raise _unexpected(path, member, "it there once")
    if archive.getinfo(member).file_size > max_bytes:
        raise _unexpected(path, member, f"at most {max_bytes} bytes")
    with archive.open(member) as file:
        content = io.BytesIO(file.read(max_bytes + 1))
    version = npy.read_magic(content)
    if version != (1, 0):
        raise _unexpected(path, member, "version 1.0 of the npy format")
    shape, _, dtype = npy.read_array_header_1_0(content)
    if not (dtype.str[1:] == kind or (kind == "U" and dtype.kind == "U")) or len(shape) != 1:
        raise _unexpected(path, member, f"one dimension of type {kind}, and no objects, which would be unpickled")
    return np.frombuffer(content.read(), dtype, count=shape[0]).astype(dtype.newbyteorder("="))


def _unexpected(path: Path, member: str, expected: str) -> DataError:
    return DataError(f"archive, in {path}, member {member}: expected {expected}, got something else; {REMEDY}")
