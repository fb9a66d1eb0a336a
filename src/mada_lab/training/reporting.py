"""The rows of a run's record, its summary, and the warning about skipped steps."""

import logging
from collections.abc import Collection
from typing import Any

from mada_lab.compute import finite
from mada_lab.system import environment
from mada_lab.training.state import TrainState
from mada_optim import HyperOptimizer

logger = logging.getLogger(__name__)


def due_row(state: TrainState) -> dict[str, Any]:
    """The row of this step, empty if none is due; reads the coefficients from the device."""
    config, optimizer = state.config, state.optimizer
    evaluated, stuck = state.due(config.eval_interval), state.skips.in_a_row >= config.max_skipped_steps
    digested = state.due(config.digest_interval or config.checkpoint_interval or config.eval_interval)
    if not (evaluated or stuck or digested or state.due(config.log_interval)):
        return {}
    row: dict[str, Any] = {"step": state.step, **state.task.seen(state.passes_done)}
    if state.train_loss is not None:
        row["train_loss"] = state.train_loss
    if evaluated:
        row |= {"val_loss": state.val_loss, **accuracy(state)}
    if speed := state.pace.take(state.task.seen(config.gradient_accumulation_steps)):
        row["speed"] = speed
    row |= {"lr": state.lr, "seconds": state.seconds, "skipped_steps": state.skipped_steps()}
    if digested:
        row["digest"] = state.digest()
    if (size := getattr(optimizer, "update_rms", None)) is not None:
        row["update_rms"] = size
    if isinstance(optimizer, HyperOptimizer) and optimizer.learned:
        row["coefficients"] = optimizer.coefficients()
        row["hypergradients"] = _of_learned(optimizer.hypergradients(), optimizer.learned)
    return row


def _of_learned(reading: dict[str, Any], learned: Collection[str]) -> dict[str, Any]:
    """The values of the coefficients in `learned`, of each scope."""
    if any(isinstance(x, dict) for x in reading.values()):
        return {scope: _of_learned(x, learned) for scope, x in reading.items()}
    return {name: x for name, x in reading.items() if name in learned}


def require_movement(state: TrainState, row: dict[str, Any]) -> None:
    """Warns at the first row with skipped steps; raises NumericsError at an evaluation if all steps were skipped.

    A loss scale, which halves at each step that overflows, has until the last step to become small enough.
    """
    skipped = row["skipped_steps"]
    if skipped and not state.skips_warned and state.world.is_first:
        text = "%d of the %d steps so far were skipped: loss or gradient was not finite, and nothing moved"
        logger.warning(text, skipped, state.step)
        state.skips_warned = True
    is_settled = not state.scaler.is_enabled() or state.step == state.config.max_iters
    if "val_loss" in row and is_settled:
        finite.require_any(state.step, skipped)


def accuracy(state: TrainState) -> dict[str, float]:
    """The accuracy of the last evaluation; empty if the task has none."""
    return {} if state.val_accuracy is None else {"val_accuracy": state.val_accuracy}


def summary(state: TrainState, initial_coefficients: dict[str, float], train_loss: float) -> dict[str, Any]:
    """The summary of a finished run. Both losses are means over fixed batches, without dropout."""
    return {
        "optimizer": state.config.optimizer,
        "steps": state.step,
        "skipped_steps": state.skipped_steps(),
        "initial_coefficients": initial_coefficients,
        "final_coefficients": state.coefficients(),
        "final_train_loss": train_loss,
        "final_val_loss": state.val_loss,
        "best_val_loss": state.best_val_loss,
        **{f"final_{key}": x for key, x in accuracy(state).items()},
        "seconds": state.seconds,
        "peak_memory_bytes": environment.peak_memory_bytes(state.precision.device),
    }
