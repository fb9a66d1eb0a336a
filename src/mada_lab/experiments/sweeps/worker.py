"""One worker of a sweep: it computes points until none is left, beside any number of others."""

import math
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

from mada_lab.config.keys import RunConfig
from mada_lab.errors import CheckpointError, Interrupted, LabError, visible
from mada_lab.experiments.sweeps.claims import MOST_DEATHS, Beat, Claim, ClaimLost, Claims, Standing
from mada_lab.experiments.sweeps.complete import complete, complete_together
from mada_lab.experiments.sweeps.plan import Plan, Values, describe
from mada_lab.experiments.sweeps.storage import StorageError
from mada_lab.records.listener import Listener
from mada_lab.records.run_record import Run
from mada_lab.system import run_lock
from mada_lab.system.signals import Signals, Stop
from mada_lab.tasks import Data
from mada_lab.tasks.open_data import open_data

POLL = 0.1  # of the grace period: how often a worker with nothing to do looks around
GLANCE = 0.1  # seconds between looks at whether a signal has come, meanwhile
POINT, SOURCES = "@", ("coefficients_from", "pace_from")


class SweepStopped(Interrupted):
    """A signal asked this worker to stop."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        LabError.__init__(self, f"stopped by {name}, and saved; the same command goes on from there")
        self.exit_code = 128 + number


class PointsFailed(LabError):  # noqa: N818 the other points have results
    """Some points of a sweep failed, and the others have results."""


def require_all(results: "Sequence[Result]") -> None:
    """Raises PointsFailed, with the exit code 1, if a point failed."""
    failed = [result for result in results if result.error is not None]
    if failed:
        what = f"expected {len(results)} finished points, got {len(failed)} that failed, the first: {failed[0].name}"
        raise PointsFailed(f"sweep: {what}; --retry-failed tries them again")


class SweepListener(Protocol):
    """Follows a worker, as a progress bar does."""

    def standing(self, settled: int, failed: int, size: int) -> None:
        """All workers together have settled `settled` of `size` points; `failed` of them failed."""

    def begins(self, name: str, config: RunConfig) -> None:
        """This worker begins the point called `name`."""

    def step(self, done: int) -> None:
        """`done` steps of the point are done."""

    def told(self, message: str) -> None:
        """A message for the user."""


@dataclass(frozen=True)
class Result:
    """A settled point."""

    point: int
    name: str
    values: Values
    folder: Path | None  #: of its run; None if it has none
    error: str | None  #: why it failed; None if it didn't
    loss: float | None = None  #: the final validation loss in nats; None if it failed


class Worker:
    """Computes points of a plan.

    Args:
        claims: Shares the points out among workers.
        out: Folder of the run folders.
        listen: Follows the worker.
        together: Number of points that it trains side by side; if more than one, all have one shape and one data set.
    """

    def __init__(self, plan: Plan, claims: Claims, out: Path, listen: SweepListener, together: int = 1) -> None:
        self.plan, self.claims, self.out, self.listen, self.together = plan, claims, out, listen, together
        self._data: Callable[[str], Data] = cache(lambda name: open_data(replace(plan.base, dataset=name)))

    def work(self) -> list[Result]:
        """Computes points until all are settled, by this worker or another; returns the results in the plan's order.

        Raises:
            SweepStopped: A signal asked to stop; the point in hand is saved, and free for another worker.
            CheckpointError: The storage fails.
        """
        try:
            with Signals() as signals:
                return self._work(signals)
        except Stop as stop:
            raise SweepStopped(stop.number) from None
        except (StorageError, OSError) as error:
            what = f"expected to read and write it, got {type(error).__name__}: {error}"
            raise CheckpointError(f"sweep storage: {what}; start this worker again, and it goes on") from error

    def _work(self, signals: Signals) -> list[Result]:
        while True:
            signals.check()
            standing = self._look()
            if len(standing.settled) >= self.plan.size:
                return self.results(standing)
            for point in self.claims.bury_dead(self._lives):
                self.listen.told(f"point {point}: its worker is gone; another takes it up")
            claims = self.claims.take(self.plan.size, self.together)
            if claims:
                self._compute(claims)
            else:
                self._rest(signals)

    def _rest(self, signals: Signals) -> None:
        end = time.monotonic() + POLL * self.claims.grace
        while time.monotonic() < end:
            signals.check()
            time.sleep(GLANCE)

    def _look(self) -> Standing:
        standing = self.claims.standing()
        failed = sum("error" in trial.facts for trial in standing.settled.values())
        self.listen.standing(len(standing.settled), failed, self.plan.size)
        return standing

    def results(self, standing: Standing) -> list[Result]:
        """The results of the settled points."""
        results = []
        for point, trial in sorted(standing.settled.items()):
            name, values = self._known(point, standing)
            folder, facts = self.out / name if name else None, trial.facts
            results.append(Result(point, name, values, folder, facts.get("error"), facts.get("final_val_loss")))
        return results

    def _compute(self, claims: Sequence[Claim]) -> None:
        """Computes points and settles them. Raises SweepStopped; other errors of a run are results."""
        with ExitStack() as stack:
            configs, heard = {}, {}
            for claim in claims:
                beat = stack.enter_context(Beat(self.claims, claim))
                try:
                    configs[claim], heard[claim] = self._begin(claim), _Heard(self.listen, beat)
                except Exception as error:
                    self._conclude(claim, error)
            try:
                outcomes = self._train(list(configs.values()), list(heard.values()))
            except BaseException as error:
                for claim in configs:
                    with suppress(ClaimLost):
                        self.claims.release(claim)
                if isinstance(error, Interrupted):
                    raise SweepStopped(error.exit_code - 128) from None
                raise
            for claim, outcome in zip(configs, outcomes, strict=True):
                self._conclude(claim, outcome)

    def _train(self, configs: Sequence[RunConfig], heard: Sequence[Listener]) -> list[Run | Exception]:
        """The run of each configuration, or why it failed. Raises what ends runs that are trained side by side."""
        if not configs:
            return []
        if self.together > 1:
            return complete_together(configs, self._data(configs[0].dataset), heard)
        try:
            return [complete(configs[0], self._data(configs[0].dataset), heard[0])]
        except Interrupted:
            raise
        except Exception as error:
            return [error]

    def _begin(self, claim: Claim) -> RunConfig:
        """The configuration of a claimed point. Raises RuntimeError if it has taken too many workers with it."""
        if self.claims.standing().deaths[claim.point] >= MOST_DEATHS:
            raise RuntimeError(f"{MOST_DEATHS} workers ended in it without a result")
        name, values = self._point(claim)
        config = self._config(name, values)
        self.listen.begins(name, config)
        return config

    def _conclude(self, claim: Claim, outcome: Run | Exception) -> None:
        """Settles a claimed point with its run, or with the error that it failed with."""
        try:
            if isinstance(outcome, ClaimLost):
                raise outcome
            if not isinstance(outcome, Exception):
                self._settle(claim, outcome)
            elif isinstance(outcome, CheckpointError) and self._lives(claim.point):  # another process holds the folder
                self.claims.release(claim)
                time.sleep(POLL * self.claims.grace)
            else:
                self._failed(claim, f"{type(outcome).__name__}: {outcome}")
        except ClaimLost:
            self.listen.told(f"point {claim.point}: others took this worker for dead, and take the point up")

    def _config(self, name: str, values: Values) -> RunConfig:
        """The configuration of a point, in its folder; `coefficients_from=@POINT` is another point of this sweep."""
        config = replace(self.plan.config(values), out_dir=str(self.out / name))
        sources = {key: getattr(config, key) or "" for key in SOURCES}
        here = {key: str(self.out / x.removeprefix(POINT)) for key, x in sources.items() if x.startswith(POINT)}
        return replace(config, **here)

    def _settle(self, claim: Claim, run: Run) -> None:
        losses = {key: (run.summary or {}).get(key) for key in ("final_train_loss", "final_val_loss")}
        value = losses["final_val_loss"]
        if value is None or not math.isfinite(value):
            self._failed(claim, "validation loss: expected a finite number, got another; lower the learning rate")
        else:
            self.claims.settle(claim, value, **losses)

    def _failed(self, claim: Claim, error: str) -> None:
        self.claims.fail(claim, visible(error))
        self.listen.told(f"point {claim.point} failed: {error}")

    def _point(self, claim: Claim) -> tuple[str, Values]:
        """Name and keys of a claimed point; of a search, drawn if they haven't been."""
        name, values = self._known(claim.point, self.claims.standing())
        if not name:
            # Seeded by the point: one worker alone draws the same each time.
            values = self.claims.study.draw(claim.trial, self.plan.space, self.plan.base.seed + claim.point)
            name = describe(claim.point, values)
        if self.plan.search:
            self.claims.note(claim, values=values, name=name)
        return name, values

    def _known(self, point: int, standing: Standing) -> tuple[str, Values]:
        """Name and keys of a point; empty if they haven't been drawn yet."""
        return standing.drawn.get(point, ("", {})) if self.plan.search else self.plan.points[point]

    def _lives(self, point: int) -> bool:
        """Whether a process of this machine, or of this file system, trains in the point's folder."""
        name, _ = self._known(point, self.claims.standing())
        return bool(name) and (self.out / name).exists() and run_lock.is_held(self.out / name)


class _Heard(Listener):
    """Passes on the steps of a run, and ends it if its claim is lost."""

    def __init__(self, listen: SweepListener, beat: Beat) -> None:
        self._listen, self._beat = listen, beat

    def step(self, done: int) -> None:
        self._beat.check()
        self._listen.step(done)
