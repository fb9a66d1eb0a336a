"""The training loop: one optimizer step after another, and a look at the validation set now and then."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mada_lab import distributed, lock, numerics, randomness, record, resume
from mada_lab.baselines import LR_FACTOR, evaluated
from mada_lab.config import RunConfig
from mada_lab.errors import Interrupted
from mada_lab.evaluate import Batch
from mada_lab.followers import NoRecord, NoSaver
from mada_lab.group_saver import GroupSaver, saver_of
from mada_lab.look import due, due_row, evaluate, summary
from mada_lab.progress import Listener
from mada_lab.record import RunRecord
from mada_lab.saver import Saver
from mada_lab.schedule import learning_rate
from mada_lab.session import Session
from mada_lab.signals import Signals, Stop
from mada_lab.tasks import Data


def train(config: RunConfig, data: Data, listen: Listener) -> Session:
    """Trains what `config` describes, and leaves its record and its checkpoints in `config.out_dir`.

    Raises:
        ConfigError: The configuration can't be run here, or out_dir holds another run.
        CheckpointError: There is nothing to resume from, it is of another run, or the disk fails.
        NumericsError: Loss or gradient were not finite in `max_skipped_steps` steps in a row.
        DistributedError: The processes don't run the same.
        Interrupted: A signal asked the run to stop; it is saved.
    """
    session = Session.start(config, data)
    validation, training = session.task.validation(), session.task.training()
    initial, world = session.coefficients(), session.world
    world.require_same(session.common())
    fresh = config.init_from != "resume"
    world.on_first(lambda: (record.require_absent if fresh else resume.require_run)(session.folder))
    with (
        world.held_by_first(lambda: lock.hold(session.folder)),
        Signals(alone=world.size == 1) as signals,
        saver_of(config, world) as saver,
    ):
        rows = resume.open_record(session)
        forward = torch.compile(session.model) if config.compile else session.model
        forward = distributed.wrapped(forward, config.parallel, world)
        try:
            run(session, forward, validation, rows, saver, signals, listen)
            with signals.abandonable(), evaluated(session.optimizer):
                train_loss = session.task.measure(forward, training, session.precision, world).loss
        except Stop as stop:
            save(session, rows, saver)
            rows.close()
            saver.close()
            raise Interrupted(stop.number, session.step) from None
        world.on_first(saver.settle)
        world.on_first(lambda: rows.finish(summary(session, initial, train_loss)))
        world.on_first(saver.close)
    return session


def run(
    session: Session,
    forward: nn.Module,
    validation: Sequence[Batch],
    rows: RunRecord | NoRecord,
    saver: Saver | NoSaver,
    signals: Signals,
    listen: Listener,
) -> None:
    """Steps until `max_iters`, with a look and a checkpoint whenever one is due."""
    config, began = session.config, time.monotonic() - session.seconds
    while True:
        signals.check()
        saver.poll()
        if not session.looked:
            if due(session, config.eval_interval):
                with signals.abandonable():
                    evaluate(session, forward, validation)
            session.seconds, session.looked = time.monotonic() - began, True
            if row := due_row(session):
                rows.log(row)
                listen.row(row)
            numerics.require_progress(session.step, session.skips, config.max_skipped_steps)
        if session.step > 0 and due(session, config.checkpoint_interval or config.eval_interval):
            save(session, rows, saver)
        if session.step >= config.max_iters:
            return
        start = time.monotonic()
        loss = gradients(session, forward, signals)
        signals.agree(update(session, loss, signals.received))
        session.pace.add(time.monotonic() - start)
        listen.step(session.step)


def gradients(session: Session, forward: nn.Module, signals: Signals) -> Tensor:
    """The gradient over all forward passes of a step; returns the mean loss of this process's, 0-d, on the device.

    If it is broken off, nothing has happened: data, random numbers and buffers stand where they stood.
    """
    passes, place, world, position = session.passes, session.precision, session.world, session.position()
    total = torch.zeros((), device=place.device)
    session.keep_buffers()
    try:
        with signals.abandonable():
            for i in range(passes):
                randomness.seed_pass(session.config.seed, session.step, i * world.size + world.rank)
                ids, targets = place.send(session.batches.next())
                with distributed.accumulating(forward, session.model, last=i == passes - 1):
                    with place.autocast():
                        _, loss = forward(ids, targets)
                    session.scaler.scale(loss / passes).backward()
                total += loss.detach() / passes
            session.share_buffers()
    except BaseException:
        session.rewind(position)
        raise
    return total


def update(session: Session, loss: Tensor, asked: int | None = None) -> int | None:
    """Moves the weights by the gradient, if it and the loss are finite; else moves nothing, and counts that.

    Returns the signal by which this process (`asked`), or another of the run, was asked to stop.
    """
    config, scaler, optimizer, model = session.config, session.scaler, session.optimizer, session.model
    scaler.unscale_(optimizer)
    norm = numerics.gradient_norm(model.parameters())
    session.train_loss, finite, heard = numerics.decide(loss, norm, asked, session.world)
    session.lr = learning_rate(config, session.step + 1)
    if finite:
        if config.grad_clip > 0:
            nn.utils.clip_grads_with_norm_(model.parameters(), config.grad_clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = session.lr * group.get(LR_FACTOR, 1.0)
        scaler.step(optimizer)
    else:
        session.restore_buffers()
    scaler.update()
    optimizer.zero_grad()
    session.skips.count(not finite)
    session.step, session.looked = session.step + 1, False
    return heard


def save(session: Session, rows: RunRecord | NoRecord, saver: Saver | NoSaver) -> None:
    """Writes a checkpoint, if there is none of this step yet. Rows go first: no checkpoint is ahead of them."""
    world = session.world
    if not world.told(bool(world.on_first(lambda: saver.has(session.step)))):
        rows.sync()
        if isinstance(saver, GroupSaver):
            saver.save(session.checkpoint(whole=False))
            return
        state = session.checkpoint()
        world.on_first(lambda: saver.save(state))
