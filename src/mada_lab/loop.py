"""The training loop: one optimizer step after another, and a look at the validation set now and then."""

import time

import torch
from torch import Tensor, nn

from mada_lab import lock, numerics, record, resume
from mada_lab.config import TrainConfig
from mada_lab.data.batches import fixed_batches
from mada_lab.data.corpus import Corpus
from mada_lab.errors import Interrupted
from mada_lab.evaluate import Batch, mean_loss
from mada_lab.look import due, due_row, evaluate, summary
from mada_lab.progress import Listener
from mada_lab.record import RunRecord
from mada_lab.saver import Saver
from mada_lab.schedule import learning_rate
from mada_lab.session import Session
from mada_lab.signals import Signals, Stop


def train(config: TrainConfig, corpus: Corpus, listen: Listener) -> Session:
    """Trains a GPT, and leaves its record and its checkpoints in `config.out_dir`.

    Raises:
        ConfigError: The configuration can't be run here, or out_dir holds another run.
        CheckpointError: There is nothing to resume from, it is of another run, or the disk fails.
        NumericsError: Loss or gradient were not finite in `max_skipped_steps` steps in a row.
        Interrupted: A signal asked the run to stop; it is saved.
    """
    session = Session.start(config, corpus)
    initial = session.coefficients()
    (resume.require_run if config.init_from == "resume" else record.require_absent)(session.folder)
    with lock.hold(session.folder), Signals() as signals, Saver(config) as saver:
        rows = resume.open_record(session)
        forward = torch.compile(session.model) if config.compile else session.model
        sizes = (config.block_size, config.batch_size, config.eval_iters, config.eval_seed)
        validation, training = (fixed_batches(tokens, *sizes) for tokens in (corpus.val, corpus.train))
        try:
            run(session, forward, validation, rows, saver, signals, listen)
            with signals.abandonable():
                train_loss = mean_loss(forward, training, session.precision)
        except Stop as stop:
            save(session, rows, saver)
            rows.close()
            saver.close()
            raise Interrupted(stop.number, session.step) from None
        saver.settle()
        rows.finish(summary(session, initial, train_loss))
        saver.close()
    return session


def run(
    session: Session,
    forward: nn.Module,
    validation: list[Batch],
    rows: RunRecord,
    saver: Saver,
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
        loss = gradients(session, forward, signals)
        update(session, loss)
        listen.step(session.step)


def gradients(session: Session, forward: nn.Module, signals: Signals) -> Tensor:
    """The gradient over all forward passes of a step; returns their mean loss, 0-d, on the device.

    If it is broken off, nothing has happened: data and random numbers stand where they stood.
    """
    passes, place, position = session.config.gradient_accumulation_steps, session.precision, session.position()
    total = torch.zeros((), device=place.device)
    try:
        with signals.abandonable():
            for _ in range(passes):
                ids, targets = (x.to(place.device) for x in session.batches.next())
                with place.autocast():
                    _, loss = forward(ids, targets)
                session.scaler.scale(loss / passes).backward()
                total += loss.detach() / passes
    except BaseException:
        session.rewind(position)
        raise
    return total


def update(session: Session, loss: Tensor) -> None:
    """Moves the weights by the gradient, if it and the loss are finite; else moves nothing, and counts that."""
    config, scaler, optimizer, model = session.config, session.scaler, session.optimizer, session.model
    scaler.unscale_(optimizer)
    norm = numerics.gradient_norm(model.parameters())
    session.train_loss, finite = numerics.decide(loss, norm)
    session.lr = learning_rate(config, session.step + 1)
    if finite:
        if config.grad_clip > 0:
            nn.utils.clip_grads_with_norm_(model.parameters(), config.grad_clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = session.lr
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    session.skips.count(not finite)
    session.step, session.looked = session.step + 1, False


def save(session: Session, rows: RunRecord, saver: Saver) -> None:
    """Writes a checkpoint, if there is none of this step yet. Rows go first: no checkpoint is ahead of them."""
    if not saver.has(session.step):
        rows.sync()
        saver.save(session.checkpoint())
