"""The training loop: one optimizer step after another, and a look at the validation set now and then."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mada_lab.checkpoints.group_saver import saver_of
from mada_lab.compute import finite as numerics
from mada_lab.compute import generators
from mada_lab.compute import world as distributed
from mada_lab.config.keys import RunConfig
from mada_lab.errors import Interrupted
from mada_lab.optimizers import clamps
from mada_lab.optimizers.baselines import LR_FACTOR
from mada_lab.records.listener import Listener
from mada_lab.system import run_lock
from mada_lab.system.signals import Signals, Stop
from mada_lab.tasks import Data
from mada_lab.training import clipping, resume
from mada_lab.training.lr_schedule import learning_rate
from mada_lab.training.reporting import due, due_row, evaluate, require_movement
from mada_lab.training.state import Session
from mada_lab.training.trainer import Fixed, Training
from mada_optim import HyperOptimizer


def train(config: RunConfig, data: Data, listen: Listener) -> Session:
    """Trains what `config` describes, and leaves its record and its checkpoints in `config.out_dir`.

    Raises:
        ConfigError: The configuration can't be run here, or out_dir holds another run.
        CheckpointError: There is nothing to resume from, it is of another run, or the disk fails.
        NumericsError: Loss or gradient were not finite in `max_skipped_steps` steps in a row, or, at an evaluation, in
            all steps so far.
        DistributedError: The processes don't run the same.
        Interrupted: A signal asked the run to stop; it is saved.
    """
    session = Session.start(config, data)
    world, fixed = session.world, Fixed.of(session.task)
    world.require_same(session.common())
    world.on_first(lambda: resume.require_place(session))
    with (
        world.held_by_first(lambda: run_lock.hold(session.folder)),
        Signals(alone=world.size == 1) as signals,
        saver_of(config, world) as saver,
    ):
        training = Training.begin(session, fixed, saver, listen)
        try:
            while between(training, signals):
                step(training, signals)
            training.finish(signals)
        except Stop as stop:
            training.stop()
            raise Interrupted(stop.number, session.step) from None
    return session


def between(training: Training, signals: Signals) -> bool:
    """A look and a checkpoint, if they are due between two steps; whether there is another step to take.

    Raises:
        Stop: A signal asks the run to stop.
        NumericsError, CheckpointError: As `train`.
    """
    session, config = training.session, training.session.config
    signals.check()
    training.saver.poll()
    if not session.looked:
        if due(session, config.eval_interval):
            with signals.abandonable():
                evaluate(session, training.forward, training.fixed.validation)
        session.seconds, session.looked = time.monotonic() - training.began, True
        if row := due_row(session):
            training.rows.log(row)
            training.listen.row(row)
        numerics.require_progress(session.step, session.skips, config.max_skipped_steps)
        if row:
            require_movement(session, row)
    if session.step > 0 and due(session, config.checkpoint_interval or config.eval_interval):
        training.save()
    return session.step < config.max_iters


def step(training: Training, signals: Signals) -> None:
    """A step of the optimizer."""
    session, start = training.session, time.monotonic()
    loss = gradients(session, training.forward, signals)
    signals.agree(update(session, loss, signals.received))
    session.pace.add(time.monotonic() - start)
    training.listen.step(session.step)


@contextmanager
def all_or_nothing(sessions: Sequence[Session], signals: Signals) -> Iterator[None]:
    """The gradient of a step: if it is broken off, data, random numbers and buffers stand where they stood before."""
    positions = [session.position() for session in sessions]
    for session in sessions:
        session.keep_buffers()
    try:
        with signals.abandonable():
            yield
    except BaseException:
        for session, position in zip(sessions, positions, strict=True):
            session.rewind(position)
        raise


def gradients(session: Session, forward: nn.Module, signals: Signals) -> Tensor:
    """The gradient over all forward passes of a step; returns the mean loss of this process's, 0-d, on the device."""
    count, place, world = session.passes_now, session.precision, session.world
    observed, exchanged = observes(session, "first"), not session.clips_each
    total = torch.zeros((), device=place.device)
    with all_or_nothing([session], signals):
        for i in range(count):
            generators.seed_pass(session.config.seed, session.step, i * world.size + world.rank)
            ids, targets = place.send(session.batches.next())
            first, last = i == 0 and observed, i == count - 1
            with distributed.accumulating(forward, session.model, last and exchanged, first):
                with place.autocast():
                    _, loss = forward(ids, targets)
                session.scaler.scale(loss / session.passes).backward()
            if first:
                observe_own(session)
            total += loss.detach() / count
        if session.clips_each:
            clip_each(session)
        session.share_buffers()
    return total


def observes(session: Session, when: str) -> bool:
    """Whether the hypergradients of the next step are of the gradient as it is then: "first" or "unclipped"."""
    optimizer = session.optimizer
    return session.config.hyper_observe == when and isinstance(optimizer, HyperOptimizer) and bool(optimizer.learned)


def observe_own(session: Session) -> None:
    """Takes the hypergradients of the next step from the gradients that processes have, with the loss's scale on them.

    They are averaged over the processes where each has a gradient of its own.
    """
    assert isinstance(session.optimizer, HyperOptimizer)
    members = distributed.of_own_gradients(session.config.parallel, session.world)
    session.optimizer.observe(loss_scale(session), members)


def loss_scale(session: Session) -> Tensor:
    """What the loss is multiplied by, 0-d, on the device."""
    return session.scaler.scale(torch.ones((), device=session.precision.device))


def clip_each(session: Session) -> None:
    """Clips this process's gradient by itself, before the mean over all of them takes its place."""
    if observes(session, "unclipped"):
        observe_own(session)
    clipping.clip_each(list(session.model.parameters()), session.config.grad_clip, loss_scale(session), session.world)


def update(session: Session, loss: Tensor, asked: int | None = None) -> int | None:
    """Moves the weights by the gradient, if it and the loss are finite; else moves nothing, and counts that.

    Returns the signal by which this process (`asked`), or another of the run, was asked to stop.
    """
    norm = unscaled_norm(session)
    session.train_loss, finite, heard = numerics.decide(loss, norm, asked, session.world)
    move(session, norm, finite)
    return heard


def unscaled_norm(session: Session) -> Tensor:
    """Norm of the gradient, 0-d, once the loss's scale is taken off it."""
    session.scaler.unscale_(session.optimizer)
    return numerics.gradient_norm(session.model.parameters())


def clip_whole(session: Session, norm: Tensor) -> None:
    """Clips the gradient of the step, which has this norm."""
    optimizer = session.optimizer
    if isinstance(optimizer, HyperOptimizer) and observes(session, "unclipped"):
        optimizer.observe()
    if session.config.grad_clip > 0:
        nn.utils.clip_grads_with_norm_(session.model.parameters(), session.config.grad_clip, norm)


def move(session: Session, norm: Tensor, finite: bool) -> None:
    """The step of the optimizer, with a gradient of this norm, which is clipped; none if something wasn't finite."""
    config, scaler, optimizer = session.config, session.scaler, session.optimizer
    session.lr = learning_rate(config, session.peak, session.step + 1, session.world.size)
    if finite:
        if not session.clips_each:
            clip_whole(session, norm)
        for group in optimizer.param_groups:
            group["lr"] = session.lr * group.get(LR_FACTOR, 1.0)
        scaler.step(optimizer)
    else:
        session.restore_buffers()
    scaler.update()
    optimizer.zero_grad()
    session.skips.count(not finite)
    session.step, session.looked = session.step + 1, False
    if isinstance(optimizer, HyperOptimizer) and clamps.is_due(config, session.step):
        clamps.clamp(config, optimizer)
