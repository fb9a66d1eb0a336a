"""Disks that fail, and processes and machines that die, at a chosen operation: an `os` for `mada_lab.system.files`.

Every change that the application makes to a disk goes through `mada_lab.system.files`, and from there to its name `os`.
A `FaultyOs` in its place counts these changes, and at the n-th does what its mode says. A failing or dying write has
written its first half.
"""

import errno
import os
import signal
import threading
from pathlib import Path

CHANGES = ("open", "write", "fsync", "ftruncate", "replace", "rename", "mkdir", "rmdir", "unlink")
MODES = ("KILL", "POWER", "ENOSPC", "EIO", "FULL")


class Died(BaseException):
    """A death within the process, for tests that don't want one of their own: nothing can change the disk after it."""


class FaultyOs:
    """The module `os`, but for the `at`-th change of the disk.

    Modes: KILL (SIGKILL), POWER (the machine dies: what was not flushed is lost, then SIGKILL), ENOSPC and EIO (that
    change fails), FULL (from there on, all that needs space fails). `in_process` raises `Died` instead of a SIGKILL.
    """

    def __init__(self, at=0, mode="KILL", in_process=False):
        self.at, self.mode, self.in_process = at, mode, in_process
        self.changes, self.dead = [], False
        self._lock = threading.RLock()  # a checkpoint may be written beside the loop
        self._paths, self._dirty, self._renames, self._made = {}, {}, [], []

    def __getattr__(self, name):
        if name in CHANGES:
            return lambda *args: self._change(name, *args)
        return getattr(os, name)

    def _change(self, name, *args):
        with self._lock:
            return self._counted(name, args)

    def _counted(self, name, args):
        if name == "open" and not args[1] & os.O_CREAT:  # to read, or to flush a folder
            return self._opened(os.open(*args), args)
        if self.dead:
            raise Died
        self.changes.append((name, str(self._paths.get(args[0], args[0]))))
        if self._strikes(name):
            self._strike(name, args)
        return self._do(name, args)

    def _strikes(self, name):
        if self.mode == "FULL":
            return 0 < self.at <= len(self.changes) and name in ("open", "write", "mkdir")
        return len(self.changes) == self.at

    def _strike(self, name, args):
        if name == "write":
            self._do(name, (args[0], args[1][: len(args[1]) // 2]))
        if self.mode == "POWER":
            self._lose_what_was_not_flushed()
        if self.mode in ("KILL", "POWER"):
            self.dead = True
            if not self.in_process:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Died
        number = errno.EIO if self.mode == "EIO" else errno.ENOSPC
        raise OSError(number, os.strerror(number), None if isinstance(args[0], int) else str(args[0]))

    def _do(self, name, args):
        """Does it, and keeps in mind what of it a loss of power would undo."""
        if name in ("open", "mkdir") and not os.path.exists(args[0]):
            self._made.append(Path(args[0]))
        old = Path(args[1]).read_bytes() if name == "replace" and os.path.exists(args[1]) else None
        if name in ("write", "ftruncate"):
            status = os.fstat(args[0])
            self._dirty.setdefault(status.st_ino, status.st_size)
        result = getattr(os, name)(*args)
        if name == "open":
            return self._opened(result, args)
        if name == "fsync":
            self._flushed(args[0])
        elif name in ("rename", "replace"):
            self._renames.append((Path(args[0]), Path(args[1]), old))
        return result

    def _opened(self, descriptor, args):
        self._paths[descriptor] = Path(args[0])
        return descriptor

    def _flushed(self, descriptor):
        self._dirty.pop(os.fstat(descriptor).st_ino, None)
        folder = self._paths[descriptor]
        if folder.is_dir():
            self._renames = [x for x in self._renames if folder not in (x[0].parent, x[1].parent)]
            self._made = [x for x in self._made if x.parent != folder]

    def _lose_what_was_not_flushed(self):
        """The worst that may happen: half of what was written gone, renames undone, new names gone."""
        folders = {x.parent for x in self._paths.values()}
        for path in {file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()}:
            status = path.stat()
            if status.st_ino in self._dirty:  # the length that was flushed
                os.truncate(path, (self._dirty[status.st_ino] + status.st_size) // 2)
        for old, new, content in reversed(self._renames):
            if new.exists():
                os.rename(new, old)
            if content is not None:
                new.write_bytes(content)
        for path in reversed(self._made):
            if path.is_file():
                os.unlink(path)
            elif path.is_dir() and not os.listdir(path):
                os.rmdir(path)
