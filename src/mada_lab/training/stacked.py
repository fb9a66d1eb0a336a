"""Runs that are trained side by side, in one process: their networks and batches stacked, their optimizers one by one.

On a GPU a small network is launches, not arithmetic: a stack of N of them takes hardly longer than one. What a run
comes to is what `loop.train` would have made of it but for the rounding of sums, which a stack adds in another order.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from mada_lab.checkpoints.saver import Saver
from mada_lab.compute import finite as numerics
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError, Interrupted
from mada_lab.records.listener import Listener
from mada_lab.system import run_lock
from mada_lab.system.signals import Signals, Stop
from mada_lab.tasks import Data
from mada_lab.training import resume
from mada_lab.training.loop import all_or_nothing, between, move, observe_own, observes, unscaled_norm
from mada_lab.training.state import Session
from mada_lab.training.trainer import Fixed, Training


@dataclass
class Member:
    """One of the runs.

    Attributes:
        config: What is trained.
        data: On what.
        listen: Follows it.
        training: The run, while it is trained.
        error: Why it ended before its time; it takes none of the others with it.
        open: What is closed when it ends: its folder's lock, its saver.
    """

    config: RunConfig
    data: Data
    listen: Listener
    training: Training | None = None
    error: Exception | None = None
    open: ExitStack = field(default_factory=ExitStack)

    def attempt(self, work: Callable[[], bool]) -> bool:
        """What `work()` returns: whether the run goes on. It doesn't if that raises."""
        try:
            goes_on = work()
        except Exception as error:
            self.error, goes_on = error, False
        if not goes_on:
            self.training = None
            self.open.close()
        return goes_on

    def begin(self) -> bool:
        """Opens the run, as `loop.train` does."""
        session = Session.start(self.config, self.data)
        require_stackable(session)
        fixed = Fixed.of(session.task)
        resume.require_place(session)
        self.open.enter_context(run_lock.hold(session.folder))
        saver = self.open.enter_context(Saver(self.config))
        self.training = Training.begin(session, fixed, saver, self.listen)
        return True

    @property
    def running(self) -> Training:
        """The run, between its begin and its end."""
        assert self.training is not None
        return self.training

    @property
    def session(self) -> Session:
        """All of it that moves."""
        return self.running.session

    def look(self, signals: Signals) -> bool:
        """What is due between two steps, the end of the run included."""
        if between(self.running, signals):
            return True
        self.running.finish(signals)
        return False

    def stop(self) -> bool:
        """Saves it as it stands."""
        self.running.stop()
        return False

    def move(self, loss: float, finite: bool, norm: Tensor, seconds: float) -> bool:
        """The step of the optimizer, on a gradient that took so long."""
        start = time.monotonic()
        self.session.train_loss = loss
        move(self.session, norm, finite)
        self.session.pace.add(seconds + time.monotonic() - start)
        self.listen.step(self.session.step)
        return True


def require_stackable(session: Session) -> None:
    """Raises ConfigError for a network whose passes draw random numbers or keep statistics, or that several train."""
    config = session.config
    if session.passes_now != session.passes:
        what = f"expected as many forward passes in the first step as in the others, got {config.first_accumulation}"
        raise ConfigError(f"runs together, in {config.out_dir}, key first_accumulation: {what}; leave it out")
    if session.world.size > 1:
        raise ConfigError(f"runs together: expected one process, got {session.world.size}; start without torchrun")
    if next(session.model.buffers(), None) is not None or getattr(config, "dropout", 0.0) > 0:
        what = "expected networks without dropout and running statistics"
        raise ConfigError(f"runs together, in {config.out_dir}: {what}, got one with them; train it by itself")


def train_together(members: Sequence[Member]) -> None:
    """Trains all of them to their ends, side by side; their networks and batches have one shape.

    Each comes to its record and its checkpoints as by `loop.train`, or to its `error`.

    Raises:
        Interrupted: A signal asked to stop; all that haven't ended are saved.
        LabError: One of them couldn't be.
    """
    with Signals() as signals, ExitStack() as leftover:
        for member in members:
            leftover.push(member.open)
        try:
            going = [x for x in members if x.attempt(x.begin)]
            while going := [x for x in going if x.attempt(partial(x.look, signals))]:
                going = _step(going, signals)
        except Stop as stop:
            left = [x for x in members if x.training is not None]
            step = max((x.session.step for x in left), default=0)
            for x in left:
                x.attempt(x.stop)
            for x in left:
                if x.error is not None:
                    raise x.error from None
            raise Interrupted(stop.number, step) from None


def _step(going: Sequence[Member], signals: Signals) -> list[Member]:
    """A step of each; those that go on."""
    start, sessions = time.monotonic(), [x.session for x in going]
    losses = gradients(sessions, signals)
    norms = torch.stack([unscaled_norm(session) for session in sessions])
    verdicts = numerics.decide_each(losses, norms)
    share = (time.monotonic() - start) / len(going)
    moves = [partial(x.move, *verdict, norm, share) for x, verdict, norm in zip(going, verdicts, norms, strict=True)]
    return [x for x, move_it in zip(going, moves, strict=True) if x.attempt(move_it)]


def gradients(sessions: Sequence[Session], signals: Signals) -> Tensor:
    """The gradient of each run over all forward passes of its step; returns their mean losses, shape (runs,)."""
    first = sessions[0]
    total = torch.zeros(len(sessions), device=first.precision.device)
    with all_or_nothing(sessions, signals):
        for i in range(first.passes):
            losses = stacked_losses(sessions)
            scaled = [x.scaler.scale(loss / x.passes) for x, loss in zip(sessions, losses, strict=True)]
            torch.stack(scaled).sum().backward()
            for session in sessions if i == 0 else ():
                if observes(session, "first"):
                    observe_own(session)
            total += losses.detach() / first.passes
    return total


def stacked_losses(sessions: Sequence[Session]) -> Tensor:
    """The loss of each network on its next batch, shape (runs,); its gradient reaches the parameters of each."""
    network, place = sessions[0].model, sessions[0].precision
    batches = [session.batches.next() for session in sessions]
    inputs, targets = place.send((torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])))
    named = [dict(session.model.named_parameters()) for session in sessions]
    stack = {name: torch.stack([params[name] for params in named]) for name in named[0]}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = functional_call(network, params, (x, y))[1]
        return found

    # fused attention has no rule for a stack on every device; in small contexts the plain one is as good
    with place.autocast(), sdpa_kernel(SDPBackend.MATH):
        return vmap(loss)(stack, inputs, targets)
