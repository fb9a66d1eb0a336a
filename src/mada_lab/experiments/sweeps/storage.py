"""Where a sweep keeps who computes what: optuna's journal in a file, or a database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.system import files

TRIES, PAUSE = (
    5,
    0.5,
)  # seconds: workers that make the tables of one database at the same time stand in each other's way
WAIT = 60  # seconds that a writer waits for the others' writes in an SQLite file


def open_storage(name: str) -> BaseStorage:
    """The storage called `name`: a URL with `://` is a database, all else the path of a journal.

    Several machines share a journal on a network file system, which SQLite must not lie on.

    Raises:
        ConfigError: There can be no such storage.
        CheckpointError: The journal is damaged.
    """
    return _database(name) if "://" in name else _journal(Path(name))


def _journal(path: Path) -> BaseStorage:
    try:
        files.make_folder(path.parent)
        path = path.resolve()
        lock = JournalFileOpenLock(str(path))
        with _locked(lock):
            _drop_torn_line(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        what = f"expected a file that can be made and written, got {error.strerror}; choose another"
        raise ConfigError(f"sweep storage, {path}: {what}") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        what = f"expected an optuna journal, got {type(error).__name__}: {error}; choose another, or remove it"
        raise CheckpointError(f"sweep storage, {path}: {what}") from error


@contextmanager
def _locked(lock: JournalFileOpenLock) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _drop_torn_line(path: Path) -> None:
    """A machine that went down, or a full disk, may leave half a line, behind which the next one couldn't be read."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        files.write_at(path, content.rfind(b"\n") + 1, b"")


def _database(url: str) -> BaseStorage:
    options = {"connect_args": {"timeout": WAIT}} if url.startswith("sqlite") else {}
    for i in range(TRIES):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except Exception as error:  # drivers raise errors of their own, and a URL may hold a password
            if i == TRIES - 1 or isinstance(error, ImportError | ValueError):
                kind = type(error).__name__
                what = f"expected a URL of SQLAlchemy that opens, got {kind}; check it, and its driver"
                raise ConfigError(f"sweep storage, {url.split(':')[0]}: {what}") from error
            time.sleep(PAUSE * (i + 1))
    raise AssertionError


def quiet() -> None:
    """Keeps optuna from telling of each study and trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
