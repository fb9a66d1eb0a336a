"""Trains several runs side by side in one process: networks and batches are stacked, optimizers step one by one.

A small network leaves a GPU mostly idle, so a stack of N of them takes hardly longer than one. Each run gives what
`train` gives, but for the rounding of sums, whose order differs in a stack.
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

from mada_lab.compute import finite
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError, Interrupted
from mada_lab.records.listener import Listener
from mada_lab.system.signals import Signals, Stop
from mada_lab.tasks import Data
from mada_lab.training import resume
from mada_lab.training.gradients import all_or_nothing, observe_own, observes, unscaled_norm
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import Trainer


@dataclass
class Member:
    """One of the runs; the first fields are the arguments of `train`."""

    config: RunConfig
    data: Data
    listen: Listener
    remedy: str = resume.GO_ON
    error: Exception | None = None  #: why the run ended early; the other runs go on
    is_running: bool = False  #: whether the run has begun and has not ended
    open: ExitStack = field(default_factory=ExitStack)  #: the lock of its folder and its saver, closed at its end

    def attempt(self, work: Callable[[], None]) -> None:
        """Does some work of the run; an error ends the run."""
        try:
            work()
        except Exception as error:
            self.error = error
            self.end()

    def begin(self, signals: Signals) -> None:
        """Opens the run, as `train` does."""
        self.trainer = Trainer(TrainState.start(self.config, self.data), self.listen, signals)
        require_stackable(self.trainer.state)
        self.trainer.prepare(self.remedy)
        self.open.enter_context(self.trainer.opened())
        self.is_running = True

    def between_steps(self) -> None:
        """Does what is due between two steps; finishes the run after its last step."""
        if not self.trainer.between_steps():
            self.trainer.finish()
            self.end()

    def apply(self, loss: float, is_finite: bool, norm: Tensor, seconds: float) -> None:
        """Updates the weights with the gradient, which took `seconds`."""
        began = time.monotonic()
        self.trainer.apply(loss, norm, is_finite)
        self.trainer.state.pace.add(seconds + time.monotonic() - began)
        self.listen.step(self.trainer.state.step)

    def stop(self) -> None:
        """Saves the run as it stands."""
        self.trainer.stop()
        self.end()

    def end(self) -> None:
        """Frees the run folder."""
        self.is_running = False
        self.open.close()


def require_stackable(state: TrainState) -> None:
    """Raises ConfigError for networks with dropout or running statistics, short first steps, or several processes."""
    config = state.config
    if state.passes_now != state.passes:
        what = f"expected as many forward passes in the first step as in the others, got {config.first_accumulation}"
        raise ConfigError(f"runs together, in {config.out_dir}, key first_accumulation: {what}; leave it out")
    if state.world.size > 1:
        raise ConfigError(f"runs together: expected one process, got {state.world.size}; start without torchrun")
    if next(state.model.buffers(), None) is not None or getattr(config, "dropout", 0.0) > 0:
        what = "expected networks without dropout and running statistics"
        raise ConfigError(f"runs together, in {config.out_dir}: {what}, got one with them; train it by itself")


def train_together(members: Sequence[Member]) -> None:
    """Trains all members to their ends, side by side; their networks and batches must have the same shapes.

    Each leaves its record and its checkpoints as by `train`, or has an `error`.

    Raises:
        Interrupted: A signal asked to stop; all unfinished runs are saved.
        LabError: One of them couldn't be saved.
    """
    with Signals() as signals, ExitStack() as leftover:
        for member in members:
            leftover.push(member.open)
        try:
            for member in members:
                member.attempt(partial(member.begin, signals))
            while running := _running(members):
                for member in running:
                    member.attempt(member.between_steps)
                if running := _running(members):
                    _step(running, signals)
        except Stop as stop:
            running = _running(members)
            for member in running:
                member.attempt(member.stop)
            for member in running:
                if member.error is not None:
                    raise member.error from None
            raise Interrupted(stop.number, max((x.trainer.state.step for x in running), default=None)) from None


def _running(members: Sequence[Member]) -> list[Member]:
    return [member for member in members if member.is_running]


def _step(running: Sequence[Member], signals: Signals) -> None:
    """Takes one step of each run."""
    began, states = time.monotonic(), [x.trainer.state for x in running]
    losses = accumulate(states, signals)
    norms = torch.stack([unscaled_norm(state) for state in states])
    decisions = finite.decide_each(losses, norms)
    share = (time.monotonic() - began) / len(running)
    for member, decision, norm in zip(running, decisions, norms, strict=True):
        member.attempt(partial(member.apply, *decision, norm, share))


def accumulate(states: Sequence[TrainState], signals: Signals) -> Tensor:
    """Adds up each run's gradient over the forward passes of a step; returns their mean losses, shape (runs,)."""
    first = states[0]
    total = torch.zeros(len(states), device=first.precision.device)
    with all_or_nothing(states, signals):
        for i in range(first.passes):
            losses = stacked_losses(states)
            scaled = [x.scaler.scale(loss / x.passes) for x, loss in zip(states, losses, strict=True)]
            torch.stack(scaled).sum().backward()
            for state in states if i == 0 else ():
                if observes(state, "first"):
                    observe_own(state)
            total += losses.detach() / first.passes
    return total


def stacked_losses(states: Sequence[TrainState]) -> Tensor:
    """The loss of each network on its next batch, shape (runs,); its gradient reaches the parameters of each."""
    network, place = states[0].model, states[0].precision
    batches = [state.batches.next() for state in states]
    inputs, targets = place.send((torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])))
    named = [dict(state.model.named_parameters()) for state in states]
    stack = {name: torch.stack([params[name] for params in named]) for name in named[0]}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs_and_loss: tuple[Tensor, Tensor] = functional_call(network, params, (x, y))
        return outputs_and_loss[1]

    # fused attention can't be stacked on every device; in small contexts the plain one is as good
    with place.autocast(), sdpa_kernel(SDPBackend.MATH):
        return vmap(loss)(stack, inputs, targets)
