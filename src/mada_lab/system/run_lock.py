"""Locks a run folder: it belongs to one process at a time."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mada_lab.errors import CheckpointError, ConfigError, translated
from mada_lab.system import files

LOCK = "lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

logger = logging.getLogger(__name__)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing into `folder`, which is made if necessary.

    The lock is on the file `lock`. The system releases it when this process ends, even by a kill. The file stays.

    Raises:
        ConfigError: The folder can't be made or written.
        CheckpointError: Another process holds the lock.
    """

    def no_folder(error: OSError) -> ConfigError:
        what = f"expected a folder that can be made and written, got {error.strerror}; choose another out_dir"
        return ConfigError(f"run folder, out_dir {folder}: {what}")

    with translated(OSError, no_folder):
        files.make_folder(folder)
        descriptor = files.open_to_lock(folder / LOCK)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        what = "expected to be its only process, got another that trains in it"
        remedy = "wait for that one to end, or choose another out_dir"
        raise CheckpointError(f"run folder, out_dir {folder}: {what}; {remedy}") from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        logger.warning("%s can't be locked here: make sure that no other process trains in it", folder)


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of `folder`, as far as the file system says."""
    try:
        with hold(folder):
            return False
    except CheckpointError:
        return True
