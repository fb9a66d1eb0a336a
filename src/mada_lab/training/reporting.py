"""What a run shows of itself between two steps: an evaluation, a row of the record, and in the end a summary."""

import logging
import math
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from mada_lab.compute import finite
from mada_lab.compute.throughput import speed
from mada_lab.optimizers.baselines import evaluated
from mada_lab.system import environment
from mada_lab.tasks.measure import Batch
from mada_lab.training.state import Session
from mada_optim import HyperOptimizer

logger = logging.getLogger(__name__)


def due(session: Session, interval: int) -> bool:
    """Whether something that happens every `interval` steps, and after the last one, happens now."""
    return session.step % interval == 0 or session.step == session.config.max_iters


def evaluate(session: Session, forward: nn.Module, validation: Sequence[Batch]) -> None:
    """Looks at the validation set."""
    with evaluated(session.optimizer):
        found = session.task.measure(forward, validation, session.precision, session.world)
    session.val_loss, session.val_accuracy = found.loss, found.accuracy
    if math.isfinite(session.val_loss):
        session.best_val_loss = min(session.val_loss, session.best_val_loss or math.inf)


def due_row(session: Session) -> dict[str, Any]:
    """The row of this step, if one is due; reads the coefficients from the device."""
    config, optimizer = session.config, session.optimizer
    evaluated, stuck = due(session, config.eval_interval), session.skips.in_a_row >= config.max_skipped_steps
    digested = due(session, config.digest_interval or config.checkpoint_interval or config.eval_interval)
    if not (evaluated or stuck or digested or due(session, config.log_interval)):
        return {}
    row: dict[str, Any] = {"step": session.step, **session.task.seen(session.passes_done)}
    if session.train_loss is not None:
        row["train_loss"] = session.train_loss
    if evaluated:
        row["val_loss"] = session.val_loss
        row.update(accuracy(session))
    if (step_seconds := session.pace.take()) is not None:
        seen = session.task.seen(config.gradient_accumulation_steps)
        row["speed"] = speed(step_seconds, seen, session.flops, session.peak_flops, session.world.size)
    row.update(lr=session.lr, seconds=session.seconds, skipped_steps=skipped_steps(session))
    if digested:
        row["digest"] = session.digest()
    if (size := getattr(optimizer, "update_rms", None)) is not None:
        row["update_rms"] = size
    if isinstance(optimizer, HyperOptimizer) and optimizer.learned:
        row.update(coefficients=optimizer.coefficients())
        row.update(hypergradients=_of_learned(optimizer.hypergradients(), optimizer.learned))
    return row


def _of_learned(reading: dict[str, Any], learned: Collection[str]) -> dict[str, Any]:
    """Those of the coefficients in `learned`, of each scope."""
    if any(isinstance(x, dict) for x in reading.values()):
        return {scope: _of_learned(x, learned) for scope, x in reading.items()}
    return {name: x for name, x in reading.items() if name in learned}


def skipped_steps(session: Session) -> int:
    """How many steps so far moved nothing; reads the optimizer's count from the device."""
    return finite.skipped_steps(session.skips, session.optimizer)


def require_movement(session: Session, row: dict[str, Any]) -> None:
    """Warns when a row is the first with skipped steps; of an evaluation, raises NumericsError if all were skipped.

    A loss scale, which halves at each step that overflows, is given the time until the last step.
    """
    skipped = row["skipped_steps"]
    if skipped and not session.told_skips and session.world.is_first:
        logger.warning(
            "%d of the %d steps so far were skipped: loss or gradient was not finite, and nothing moved",
            skipped,
            session.step,
        )
        session.told_skips = True
    is_settled = not session.scaler.is_enabled() or session.step == session.config.max_iters
    if "val_loss" in row and is_settled:
        finite.require_any(session.step, skipped)


def accuracy(session: Session) -> dict[str, float]:
    """The accuracy of the last evaluation, if the task has one."""
    return {} if session.val_accuracy is None else {"val_accuracy": session.val_accuracy}


def summary(session: Session, initial_coefficients: dict[str, float], train_loss: float) -> dict[str, Any]:
    """What the run came to. Both losses are means over fixed batches, without dropout."""
    return {
        "optimizer": session.config.optimizer,
        "steps": session.step,
        "skipped_steps": skipped_steps(session),
        "initial_coefficients": initial_coefficients,
        "final_coefficients": session.coefficients(),
        "final_train_loss": train_loss,
        "final_val_loss": session.val_loss,
        "best_val_loss": session.best_val_loss,
        **{f"final_{key}": x for key, x in accuracy(session).items()},
        "seconds": session.seconds,
        "peak_memory_bytes": environment.peak_memory_bytes(session.precision.device),
    }
