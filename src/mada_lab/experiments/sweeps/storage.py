"""The storage that the workers of a sweep share: a journal in a file, or a database. Only this file imports optuna.

A storage holds studies, one per plan; a study holds facts and trials. A trial holds facts too, and runs until it ends.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState, create_trial

from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.experiments.sweeps.plan import Choices, Range
from mada_lab.system import files

TRIES, PAUSE = 5, 0.5  # seconds: workers that make the tables of one database at the same time disturb each other
WAIT = 60  # seconds that a writer waits for the others' writes in an SQLite file

Storage = BaseStorage
study_names = optuna.get_all_study_names
#: What a storage raises that can't be read or written.
StorageError = StorageInternalError
#: What a study raises if a trial that is to be changed has ended.
TrialEnded = UpdateFinishedTrialError
#: RUNNING, or how a trial ended: COMPLETE, FAIL, PRUNED.
State = TrialState


@dataclass(frozen=True)
class Trial:
    """A trial as it was read."""

    id: int  #: identifies it to the methods of its study
    number: int  #: its place in the order in which all workers see the trials of a study
    state: State  #: running, or how it ended
    facts: Mapping[str, Any]  #: notes of the workers, by name


class Study:
    """The study called `name`, made if need be."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
        self._storage, self._id = self._study._storage, self._study._study_id  # the first has a cache

    @property
    def facts(self) -> dict[str, Any]:
        """The notes of the workers about the study, by name."""
        return self._storage.get_study_user_attrs(self._id)

    def note(self, name: str, fact: object) -> None:
        """Notes a fact about the study."""
        self._storage.set_study_user_attr(self._id, name, fact)

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers."""
        frozen = self._storage.get_all_trials(self._id, deepcopy=False)
        read = [Trial(x._trial_id, x.number, x.state, x.user_attrs) for x in frozen]
        return sorted(read, key=lambda trial: trial.number)

    def begin(self, facts: Mapping[str, Any]) -> int:
        """Adds a running trial with these facts, and returns its id."""
        trial = create_trial(state=TrialState.RUNNING, user_attrs=dict(facts))
        return self._storage.create_new_trial(self._id, trial)

    def note_trial(self, trial: int, facts: Mapping[str, Any]) -> None:
        """Notes facts about a running trial. Raises TrialEnded."""
        for name, fact in facts.items():
            self._storage.set_trial_user_attr(trial, name, fact)

    def end(self, trial: int, state: State, value: float | None = None) -> bool:
        """Ends a running trial with its result; returns whether this worker ended it. Raises TrialEnded."""
        return self._storage.set_trial_state_values(trial, state, None if value is None else [value])

    def draw(self, trial: int, space: Mapping[str, Range | Choices], seed: int) -> dict[str, Any]:
        """A point of `space` for a running trial, drawn by optuna's TPE from the values of the trials before it."""
        self._study.sampler = TPESampler(seed=seed)
        drawn = optuna.Trial(self._study, trial)
        for key, among in space.items():
            if isinstance(among, Range):
                suggest = drawn.suggest_int if isinstance(among.low, int) else drawn.suggest_float
                suggest(key, among.low, among.high, log=among.log)
            else:
                drawn.suggest_categorical(key, among)
        return dict(drawn.params)


def open_storage(name: str) -> Storage:
    """The storage called `name`: a URL with `://` is a database, all else the path of a journal.

    Several machines can share a journal on a network file system, but not an SQLite file.

    Raises:
        ConfigError: There can be no such storage.
        CheckpointError: The journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # without a line for each study and trial
    return _database(name) if "://" in name else _journal(Path(name))


def _journal(path: Path) -> Storage:
    try:
        files.make_folder(path.parent)
        path = path.resolve()
        lock = JournalFileOpenLock(str(path))
        lock.acquire()
        try:
            _drop_torn_line(path)
        finally:
            lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        what = f"expected a file that can be made and written, got {error.strerror}; choose another"
        raise ConfigError(f"sweep storage, {path}: {what}") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        what = f"expected an optuna journal, got {type(error).__name__}: {error}; choose another, or remove it"
        raise CheckpointError(f"sweep storage, {path}: {what}") from error


def _drop_torn_line(path: Path) -> None:
    """Cuts off half a line at the end, as a power cut or a full disk leaves it: the next line would be unreadable."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        files.write_at(path, content.rfind(b"\n") + 1, b"")


def _database(url: str) -> Storage:
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
