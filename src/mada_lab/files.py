"""The one seam to the disk: a file or folder appears under its name whole, or not at all.

Everything is written under a temporary name beside its target, flushed to the disk, and renamed into place. A process
killed at any moment leaves the old content, or the new one.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes `content` (text as UTF-8) to `path`, replacing what was there in one rename."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; at the end it is flushed and appears as `path`, which must not exist yet."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    for file in part.iterdir():
        sync(file)
    sync(part)
    os.rename(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flushes a file's content, or a folder's entries (so that a rename survives), from the cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- for long preparations: they may fail half-way, and two processes may want the same one ----


@contextmanager
def new_folder_or_none(path: Path) -> Iterator[Path]:
    """`new_folder`, and after an exception there is no trace of it."""
    try:
        with new_folder(path) as part:
            yield part
    except BaseException:
        shutil.rmtree(path.with_name(path.name + ".part"), ignore_errors=True)
        raise


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Waits until no other process is in here with the same `path`.

    The folder that `path` is to lie in is made for the time being, and stays if something is put into it.
    """
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    try:
        descriptor = _locked(lock)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        with suppress(OSError):  # not empty
            for parent in made:
                parent.rmdir()


def _locked(lock: Path) -> int:
    """Opens a lock file and waits for its lock; the descriptor is to be closed after the file was removed."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        with suppress(OSError):  # some network file systems have no locks; then nobody waits
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)  # whoever had the lock has removed the file
