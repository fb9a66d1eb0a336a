"""The training loop: one optimizer step after another, and a look at the validation set now and then."""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from mada_lab import environment
from mada_lab.config import TrainConfig
from mada_lab.data.batches import fixed_batches
from mada_lab.data.corpus import Corpus
from mada_lab.errors import NumericsError
from mada_lab.evaluate import Batch, mean_loss
from mada_lab.progress import Listener
from mada_lab.record import RunRecord
from mada_lab.schedule import learning_rate
from mada_lab.session import Session
from mada_optim import HyperOptimizer


def train(config: TrainConfig, corpus: Corpus, listen: Listener) -> Session:
    """Trains a GPT, and leaves its record and its checkpoints in `config.out_dir`.

    Raises:
        ConfigError: The configuration can't be run here, or out_dir holds another run.
        CheckpointError: There is nothing to resume from, or it is of another run.
        NumericsError: The loss is no longer finite.
    """
    session = Session.start(config, corpus)
    initial = session.coefficients()
    record = open_record(session)
    forward = torch.compile(session.model) if config.compile else session.model
    sizes = (config.block_size, config.batch_size, config.eval_iters, config.eval_seed)
    validation, training = (fixed_batches(tokens, *sizes) for tokens in (corpus.val, corpus.train))
    began = time.monotonic() - session.seconds

    if session.step == 0:
        evaluate(session, forward, validation)
        listen.row(log(record, session, lr=0.0, loss=None))
    while session.step < config.max_iters:
        lr = learning_rate(config, session.step + 1)
        loss = optimizer_step(session, forward, lr)
        session.step += 1
        listen.step(session.step)

        evaluated = due(session, config.eval_interval)
        if evaluated:
            evaluate(session, forward, validation)
        session.seconds = time.monotonic() - began
        if evaluated or due(session, config.log_interval):
            listen.row(log(record, session, lr, loss))
        if due(session, config.checkpoint_interval or config.eval_interval):
            session.save()

    record.finish(summary(session, initial, mean_loss(forward, training, session.precision)))
    return session


def open_record(session: Session) -> RunRecord:
    """The record of a fresh run, or of the one that is resumed, taken up at its checkpoint."""
    if session.config.init_from == "scratch":
        return RunRecord.create(session.folder, session.manifest())
    session.resume()
    return RunRecord.resume(session.folder, session.step)


def due(session: Session, interval: int) -> bool:
    """Whether something that happens every `interval` steps, and after the last one, happens now."""
    return session.step % interval == 0 or session.step == session.config.max_iters


def optimizer_step(session: Session, forward: nn.Module, lr: float) -> Tensor:
    """One optimizer step over all its forward passes; returns their mean loss, 0-d, on the device."""
    config, scaler, optimizer = session.config, session.scaler, session.optimizer
    for group in optimizer.param_groups:
        group["lr"] = lr
    passes = config.gradient_accumulation_steps
    total = torch.zeros((), device=session.precision.device)
    for _ in range(passes):
        ids, targets = (x.to(session.precision.device) for x in session.batches.next())
        with session.precision.autocast():
            _, loss = forward(ids, targets)
        scaler.scale(loss / passes).backward()
        total += loss.detach() / passes
    if config.grad_clip > 0:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(session.model.parameters(), config.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return total


def evaluate(session: Session, forward: nn.Module, validation: list[Batch]) -> None:
    """Looks at the validation set."""
    session.val_loss = mean_loss(forward, validation, session.precision)
    session.best_val_loss = min(session.val_loss, session.best_val_loss or math.inf)


def log(record: RunRecord, session: Session, lr: float, loss: Tensor | None) -> dict[str, Any]:
    """Writes a row; the only place that reads the training loss and the coefficients from the device.

    Raises:
        NumericsError: The loss is not finite. The row is written all the same; a checkpoint isn't.
    """
    config, optimizer = session.config, session.optimizer
    tokens = session.step * config.gradient_accumulation_steps * config.batch_size * config.block_size
    row: dict[str, Any] = {"step": session.step, "tokens": tokens}
    if loss is not None:
        row["train_loss"] = loss.item()
    if due(session, config.eval_interval):
        row["val_loss"] = session.val_loss
    row.update(lr=lr, seconds=session.seconds)
    if isinstance(optimizer, HyperOptimizer) and optimizer.learned:
        row.update(coefficients=optimizer.coefficients(), hypergradients=optimizer.hypergradients())
    record.log(row)
    if not math.isfinite(row.get("train_loss", 0.0)):
        raise NumericsError(
            f"training loss, at step {session.step}: expected a finite number, got {row['train_loss']}; "
            "lower learning_rate, and start afresh or from the last checkpoint with init_from=resume"
        )
    return row


def summary(session: Session, initial_coefficients: dict[str, float], train_loss: float) -> dict[str, Any]:
    """What the run came to. Both losses are means over fixed batches, without dropout."""
    return {
        "optimizer": session.config.optimizer,
        "steps": session.step,
        "initial_coefficients": initial_coefficients,
        "final_coefficients": session.coefficients(),
        "final_train_loss": train_loss,
        "final_val_loss": session.val_loss,
        "best_val_loss": session.best_val_loss,
        "seconds": session.seconds,
        "peak_memory_bytes": environment.peak_memory_bytes(session.precision.device),
    }
