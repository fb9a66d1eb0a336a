"""A run folder belongs to one process at a time."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.system import files

LOCK = "lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

logger = logging.getLogger(__name__)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing into `folder`, which is made if need be.

    The system holds the lock, on the file `lock`, and lets it go when this process ends, however it ends. The file
    stays: it means nothing by itself.

    Raises:
        ConfigError: The folder can't be made or written.
        CheckpointError: Another process has it.
    """
    try:
        files.make_folder(folder)
        descriptor = files.open_to_lock(folder / LOCK)
    except OSError as error:
        what = f"expected a folder that can be made and written, got {error.strerror}; choose another out_dir"
        raise ConfigError(f"run folder, out_dir {folder}: {what}") from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CheckpointError(
            f"run folder, out_dir {folder}: expected to be its only process, got another that trains in it; "
            "wait for that one to end, or choose another out_dir"
        ) from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        logger.warning("%s can't be locked here: take care that no other process trains in it", folder)


def is_held(folder: Path) -> bool:
    """Whether a process has `folder`, as far as the file system tells."""
    try:
        with hold(folder):
            return False
    except CheckpointError:
        return True
