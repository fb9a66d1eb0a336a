"""Claims: workers, on any number of machines, agree through their storage which of them computes a point of a sweep.

To claim a point, a worker adds a running trial with the number of the point, and then reads all trials. The storage
numbers trials in one order, and a worker that has added one sees every trial before it. If several workers claim a
point, the claim with the lowest number stands, and the other workers see that.

While it computes, a worker changes its trial now and then. If a trial doesn't change for `grace` seconds, another
worker marks it as failed, which frees the point for a new claim. The states of a trial:

    running                         claimed
    complete, or failed with error  settled; a failure stands until a user asks to retry it
    failed without error            its worker died, or was stopped (`released`); the point is free
    pruned                          another worker's claim came first; ignored
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from mada_lab.experiments.sweeps.storage import State, Study, Trial, TrialEnded

logger = logging.getLogger(__name__)

BEATS = 6  # signs of life within the grace period
RETRIED = "retried "  # begins the study's attributes that say which failures no longer stand
MOST_DEATHS = 3  # workers that a point may take with it


class ClaimLost(Exception):  # noqa: N818 nothing went wrong here: others took this worker for dead
    """The trial isn't this worker's any more."""


@dataclass(frozen=True)
class Standing:
    """Which points are settled, held by a worker, or drawn."""

    settled: dict[int, Trial] = field(default_factory=dict)  #: by point, the trial that has its result or its failure
    held: dict[int, Trial] = field(default_factory=dict)  #: by point, the trial of the worker that computes it
    deaths: Counter[int] = field(default_factory=Counter)  #: by point, the number of workers that died in it
    #: By point of a search, the name and the keys that a worker has drawn
    drawn: dict[int, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, trials: Sequence[Trial], retried: Collection[int] = ()) -> Self:
        """The standing after `trials` in the order of their numbers, without the failures numbered in `retried`."""
        standing = cls()
        for trial in trials:
            point = trial.facts.get("point")
            if not isinstance(point, int) or trial.number in retried:
                continue
            if is_settled(trial):
                standing.settled.setdefault(point, trial)
            elif trial.state == State.RUNNING:
                standing.held.setdefault(point, trial)
            elif trial.state == State.FAIL and not trial.facts.get("released"):
                standing.deaths[point] += 1
            if "values" in trial.facts and "name" in trial.facts:
                standing.drawn[point] = (trial.facts["name"], trial.facts["values"])
        return standing

    def free(self, points: int) -> list[int]:
        """The points that nobody has claimed or settled."""
        return [i for i in range(points) if i not in self.settled and i not in self.held]


def is_settled(trial: Trial) -> bool:
    """Whether the trial has come to a result, or to a failure that stands."""
    return trial.state == State.COMPLETE or (trial.state == State.FAIL and "error" in trial.facts)


@dataclass(frozen=True)
class Claim:
    """A point that this worker has claimed, and its trial's id in the storage."""

    point: int
    trial: int


class Claims:
    """The claims in `study`, for `worker`. After `grace` seconds without a sign of life, a worker counts as dead."""

    def __init__(self, study: Study, worker: str, grace: float) -> None:
        self.study, self.grace = study, grace
        self._worker = worker
        self._seen: dict[int, tuple[Any, float]] = {}

    def standing(self) -> Standing:
        """The standing of all points now."""
        return Standing.of(self.study.trials(), self._retried())

    def retry_failed(self) -> int:
        """Frees the points that have failed so far, and returns their number."""
        failed = [trial for trial in self.standing().settled.values() if trial.state == State.FAIL]
        for trial in failed:  # a key for each: what another worker writes at the same time isn't lost
            self.study.note(f"{RETRIED}{trial.number}", True)
        return len(failed)

    def _retried(self) -> set[int]:
        return {int(key.removeprefix(RETRIED)) for key in self.study.facts if key.startswith(RETRIED)}

    def take(self, points: int, most: int = 1) -> list[Claim]:
        """Claims up to `most` of the free points; none if no point is free."""
        taken: list[Claim] = []
        for point in self.standing().free(points):
            claim = self._claim(point)
            if claim is not None:
                taken.append(claim)
            if len(taken) == most:
                break
        return taken

    def _claim(self, point: int) -> Claim | None:
        claimed = self.study.begin({"point": point, "worker": self._worker, "beat": 0})
        trials = self.study.trials()
        number = next(trial.number for trial in trials if trial.id == claimed)
        rivals = [trial for trial in trials if trial.facts.get("point") == point and trial.number != number]
        retried = self._retried()
        first = all(trial.number > number for trial in rivals if trial.state == State.RUNNING)
        if first and not any(is_settled(trial) and trial.number not in retried for trial in rivals):
            return Claim(point, claimed)
        self.study.end(claimed, State.PRUNED)
        return None

    def note(self, claim: Claim, **facts: Any) -> None:
        """Adds facts to the trial. Raises ClaimLost if it isn't this worker's any more."""
        self._change(claim, None, facts)

    def settle(self, claim: Claim, value: float, **facts: Any) -> None:
        """The point has a result. Raises ClaimLost."""
        self._change(claim, State.COMPLETE, facts, value)

    def fail(self, claim: Claim, error: str) -> None:
        """The point has failed, and stands so. Raises ClaimLost."""
        self._change(claim, State.FAIL, {"error": error})

    def release(self, claim: Claim) -> None:
        """This worker is stopped; the point is free at once. Raises ClaimLost."""
        self._change(claim, State.FAIL, {"released": True})

    def _change(self, claim: Claim, state: State | None, facts: dict[str, Any], value: float | None = None) -> None:
        try:
            self.study.note_trial(claim.trial, facts)
            if state is not None:
                self.study.end(claim.trial, state, value)
        except TrialEnded as error:
            raise ClaimLost from error

    def bury_dead(self, lives: Callable[[int], bool]) -> list[int]:
        """Fails the trials that were quiet for the grace period, unless `lives(point)`, and returns their points."""
        now, buried = time.monotonic(), []
        held = self.standing().held
        self._seen = {trial.id: self._seen.get(trial.id, (None, now)) for trial in held.values()}
        for point, trial in held.items():
            beat = trial.facts.get("beat")
            last, since = self._seen[trial.id]
            if beat != last:
                self._seen[trial.id] = (beat, now)
            elif now - since > self.grace and not lives(point) and self.bury(trial):
                buried.append(point)
        return buried

    def bury(self, trial: Trial) -> bool:
        """Fails the trial of a worker that counts as dead; False if it has ended by itself, or by another worker."""
        try:
            return self.study.end(trial.id, State.FAIL)
        except TrialEnded:
            return False


class Beat:
    """Shows in the storage, from a thread of its own, that a claim's worker lives."""

    def __init__(self, claims: Claims, claim: Claim) -> None:
        self._claims, self._claim = claims, claim
        self._end, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._beat, name="beat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def check(self) -> None:
        """Raises ClaimLost if others took this worker for dead."""
        if self._lost:
            raise ClaimLost

    def _beat(self) -> None:
        count = 0
        while not self._end.wait(self._claims.grace / BEATS):
            count += 1
            try:
                self._claims.note(self._claim, beat=count)
            except ClaimLost:
                self._lost = True
                return
            except Exception as error:  # the storage is out of reach; if it stays so, the others take over
                logger.warning(
                    "sweep storage: expected to write a sign of life, got %s: %s", type(error).__name__, error
                )
