"""Writes files and folders so that each appears under its name whole, or not at all.

Everything is written under a temporary name beside its target, flushed to the disk, and renamed into place. A process
killed at any moment leaves the old content or the new one; so does a machine that loses power.

The application changes the disk only through these functions, and they only through the name `os` of this module: tests
replace it by an `os` that fails, or dies, at a chosen operation.
"""

import fcntl
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

PART, LOCK = ".part", ".lock"  # endings of temporary names
NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC

GATHERED_BYTES = 1 << 20  # shorter pieces are gathered up to so many bytes before they are written

Piece = bytes | bytearray | memoryview


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes `content` (text as UTF-8) to `path`; one rename replaces the old content."""
    part = path.with_name(path.name + PART)
    try:
        write_new(part, [content.encode() if isinstance(content, str) else content])
        os.replace(part, path)
    except OSError:
        discard(part)
        raise
    sync(path.parent)


def write_new(path: Path, pieces: Iterable[Piece]) -> None:
    """Writes `pieces` to `path`, and flushes them; an error leaves a torn file."""
    with NewFile(path) as file:
        for piece in pieces:
            file.write(piece)


class NewFile:
    """Writes a file piece by piece, in few writes; it is flushed at the end of `with`, and torn after an exception."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, NEW, 0o666)
        self._waiting = bytearray()

    def __enter__(self) -> Self:
        return self

    def write(self, piece: Piece) -> None:
        if len(self._waiting) + len(piece) > GATHERED_BYTES:
            self._write_waiting()
        if len(piece) > GATHERED_BYTES:
            _write(self._descriptor, piece)
        else:
            self._waiting += piece

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        _write(self._descriptor, waiting)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flushes the file, unless something has failed already."""
        try:
            if kind is None:
                self._write_waiting()
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


def write_at(path: Path, position: int, content: bytes) -> None:
    """Writes `content` after the first `position` bytes of `path`, in one write if the system allows it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        if os.fstat(descriptor).st_size != position:  # an earlier write was torn
            os.ftruncate(descriptor, position)
        _write(descriptor, content)
    finally:
        os.close(descriptor)


def _write(descriptor: int, piece: Piece) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder; at the end it is flushed and renamed to `path`, which must not exist yet."""
    part = path.with_name(path.name + PART)
    remove(part)
    make_folder(part)
    try:
        yield part
        for file in part.iterdir():
            sync(file)
        sync(part)
        os.rename(part, path)
    except BaseException:
        discard(part)
        raise
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and its missing parents; each survives a loss of power."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:  # another process was faster
        if not path.is_dir():
            raise
    sync(path.parent)


def make_fresh_folder(path: Path) -> Path:
    """Makes and returns the folder `path`, or `path-2`, `path-3`: the first name that no process has taken."""
    make_folder(path.parent)
    for number in itertools.count(1):
        with suppress(FileExistsError):
            os.mkdir(fresh := path if number == 1 else path.with_name(f"{path.name}-{number}"))
            sync(path.parent)
            return fresh
    raise AssertionError  # for mypy: the numbers have no end


def rename(old: Path, new: Path) -> None:
    """Renames a file or folder within its parent; the new name must be free."""
    os.rename(old, new)
    sync(new.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder that others may read: it is renamed first, so that nobody finds half of it."""
    part = path.with_name(path.name + PART)
    remove(part)
    rename(path, part)
    remove(part)


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        for name in sorted(os.listdir(path)):
            remove(path / name)
        os.rmdir(path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, up to the first one that isn't empty."""
    with suppress(OSError):
        for folder in folders:
            os.rmdir(folder)


def discard(path: Path) -> None:
    """Removes a file or folder after a failure, if possible: nobody reads files of this name."""
    with suppress(OSError):
        remove(path)


def open_to_lock(path: Path) -> int:
    """A descriptor of a lock file, which is made if necessary."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def sync(path: Path) -> None:
    """Flushes a file's content, or a folder's entries (so that a rename survives), to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Waits until no other process has entered this with the same `path`.

    The missing parents of `path` are made, and removed afterwards if they are empty.
    """
    made = [parent for parent in path.parents if not parent.exists()]
    make_folder(path.parent)
    lock = path.with_name(f".{path.name}{LOCK}")
    try:
        descriptor = _locked(lock)
        try:
            yield
        finally:
            remove(lock)
            os.close(descriptor)
    finally:
        remove_empty(made)


def _locked(lock: Path) -> int:
    """Opens a lock file and waits for its lock; returns the descriptor, to be closed once the file is removed."""
    while True:
        descriptor = open_to_lock(lock)
        with suppress(OSError):  # some network file systems have no locks: then nobody waits
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)  # the process that had the lock has removed the file
