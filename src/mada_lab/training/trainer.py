"""Training, from top to bottom: step after step, with evaluations, rows of the record and checkpoints between them."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mada_lab.checkpoints.saver import Saver, WritesNothing, saver_of
from mada_lab.compute import finite
from mada_lab.compute import world as distributed
from mada_lab.config.keys import RunConfig
from mada_lab.errors import Interrupted
from mada_lab.optimizers import clamps
from mada_lab.optimizers.baselines import LR_FACTOR, evaluated
from mada_lab.records.listener import Listener
from mada_lab.records.run_record import RunRecord
from mada_lab.system import run_lock
from mada_lab.system.signals import Signals, Stop
from mada_lab.tasks import Data
from mada_lab.tasks.measure import Batch, Measured
from mada_lab.training import gradients, restarts, resume
from mada_lab.training.lr_schedule import learning_rate
from mada_lab.training.reporting import due_row, require_movement, summary
from mada_lab.training.state import TrainState
from mada_optim import HyperOptimizer


def train(config: RunConfig, data: Data, listen: Listener, remedy: str = resume.GO_ON) -> TrainState:
    """Trains the run of `config`; writes its record and its checkpoints to `config.out_dir`.

    Args:
        config: The run.
        data: The data set.
        listen: Follows the run.
        remedy: What to do if a fresh run's folder is in use already, in words of the command; it ends the error.

    Raises:
        ConfigError: This machine can't run the configuration, or out_dir holds another run.
        CheckpointError: There is nothing to resume from, it belongs to another run, or the disk fails.
        NumericsError: Loss or gradient were not finite in `max_skipped_steps` steps in a row, or, at an evaluation, in
            all steps so far.
        DistributedError: The processes run different code, data or configurations.
        Interrupted: A signal asked the run to stop; it is saved.
    """
    trainer = Trainer(TrainState.start(config, data), listen)
    trainer.prepare(remedy)
    with trainer.signals, trainer.opened():
        try:
            while trainer.between_steps():
                trainer.train_step()
            trainer.finish()
        except Stop as stop:
            trainer.stop()
            raise Interrupted(stop.number, trainer.state.step) from None
    return trainer.state


class Trainer:
    """Trains one run from `state`, at step 0; `listen` follows the run, and `signals` stop it."""

    validation: Sequence[Batch]  #: the fixed batches of the validation loss
    training: Sequence[Batch]  #: the fixed batches of the final training loss
    saver: Saver | WritesNothing
    record: RunRecord | WritesNothing

    def __init__(self, state: TrainState, listen: Listener, signals: Signals | None = None) -> None:
        self.state, self.listen = state, listen
        self.signals = Signals(alone=state.world.size == 1) if signals is None else signals
        self.forward: nn.Module = state.model  #: the network as a step calls it; `opened` compiles and wraps it

    def prepare(self, remedy: str = resume.GO_ON) -> None:
        """Loads the evaluation batches and checks the run folder; writes nothing. Raises as `train`."""
        state, world = self.state, self.state.world
        self.validation, self.training = state.task.validation(), state.task.training()
        world.require_same(state.common())
        world.on_first(lambda: resume.require_place(state, remedy))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Locks the run folder, opens its record and saver, and restores a resumed run. Raises as `open_record`."""
        state, config, world = self.state, self.state.config, self.state.world
        with world.enter_on_first(lambda: run_lock.hold(state.folder)), saver_of(config, world) as self.saver:
            world.on_first(lambda: restarts.sign(state.folder))
            self.initial_coefficients = state.coefficients()
            self.record = resume.open_record(state)
            compiled: Any = torch.compile(state.model) if config.compile else state.model
            self.forward = distributed.wrapped(compiled, config.parallel, world)
            self.began = time.monotonic() - state.seconds
            yield

    def between_steps(self) -> bool:
        """Evaluates, logs and saves where due; returns whether there is another step to take.

        Raises as `train`, and Stop if a signal asks the run to stop.
        """
        state, config = self.state, self.state.config
        self.signals.check()
        self.saver.poll()
        if not state.reported:
            if state.due(config.eval_interval):
                self.evaluate()
            self.log()
        if state.step > 0 and state.due(config.checkpoint_interval or config.eval_interval):
            self.save()
        return state.step < config.max_iters

    def train_step(self) -> None:
        """Takes one optimizer step: forward and backward passes, then the update."""
        began = time.monotonic()
        loss = gradients.accumulate(self.state, self.forward, self.signals)
        self.update(loss)
        self.state.pace.add(time.monotonic() - began)
        self.listen.step(self.state.step)

    def update(self, loss: Tensor) -> None:
        """Updates the weights, or skips the step if a process's mean loss (0-d) or the gradient isn't finite."""
        norm = gradients.unscaled_norm(self.state)
        decision = finite.decide(loss, norm, self.signals.received, self.state.world)
        self.apply(decision.loss, norm, decision.is_finite)
        self.signals.agree(decision.signal)

    def apply(self, loss: float, norm: Tensor, is_finite: bool) -> None:
        """Clips the gradient and takes the optimizer's step at the scheduled learning rate; skips both if not finite.

        `loss` is the mean of all processes, and `norm` the norm of the gradient, 0-d.
        """
        state, config, optimizer = self.state, self.state.config, self.state.optimizer
        state.train_loss = loss
        state.lr = learning_rate(config, state.peak, state.step + 1, state.world.size)
        if is_finite:
            gradients.clip(state, norm)
            for group in optimizer.param_groups:
                group["lr"] = state.lr * group.get(LR_FACTOR, 1.0)
            state.scaler.step(optimizer)
        else:
            state.restore_buffers()
        state.scaler.update()
        optimizer.zero_grad()
        state.skips.count(not is_finite)
        state.step, state.reported = state.step + 1, False
        if isinstance(optimizer, HyperOptimizer) and clamps.is_due(config, state.step):
            clamps.clamp(config, optimizer)

    def measure(self, batches: Sequence[Batch]) -> Measured:
        """Loss and accuracy on fixed batches, without dropout."""
        state = self.state
        with self.signals.abandonable(), evaluated(state.optimizer):
            return state.task.measure(self.forward, batches, state.precision, state.world)

    def evaluate(self) -> None:
        """Measures loss and accuracy on the validation set."""
        state, measured = self.state, self.measure(self.validation)
        state.val_loss, state.val_accuracy = measured.loss, measured.accuracy
        if math.isfinite(measured.loss):
            state.best_val_loss = min(measured.loss, state.best_val_loss or math.inf)

    def log(self) -> None:
        """Adds the row of this step to the record, if one is due. Raises NumericsError if training is stuck."""
        state = self.state
        state.seconds, state.reported = time.monotonic() - self.began, True
        row = due_row(state)
        if row:
            self.record.log(row)
            self.listen.row(row)
        finite.require_progress(state.step, state.skips, state.config.max_skipped_steps)
        if row:
            require_movement(state, row)

    def save(self) -> None:
        """Writes a checkpoint unless this step has one, after the rows: no checkpoint is ahead of the record."""
        state, saver, world = self.state, self.saver, self.state.world
        if world.broadcast(world.on_first(lambda: saver.has(state.step))):
            return
        self.record.sync()
        if saver.is_shared:
            saver.save(state.checkpoint(whole=False))
        else:
            checkpoint = state.checkpoint()
            world.on_first(lambda: saver.save(checkpoint))

    def stop(self) -> None:
        """Saves the run as it stands, to be resumed."""
        self.save()
        self.record.close()
        self.saver.close()

    def finish(self) -> None:
        """Measures the final training loss and writes the summary."""
        state, world, measured = self.state, self.state.world, self.measure(self.training)
        world.on_first(self.saver.settle)
        world.on_first(lambda: self.record.finish(summary(state, self.initial_coefficients, measured.loss)))
        world.on_first(self.saver.close)
