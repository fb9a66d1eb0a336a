"""A run that is being trained, with what it has open: begun, saved, stopped and finished."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mada_lab.checkpoints.group_saver import GroupSaver
from mada_lab.checkpoints.saver import NoSaver, Saver
from mada_lab.compute import world as distributed
from mada_lab.optimizers.baselines import evaluated
from mada_lab.records.listener import Listener
from mada_lab.records.run_record import NoRecord, RunRecord
from mada_lab.system.signals import Signals
from mada_lab.tasks import Task
from mada_lab.tasks.measure import Batch
from mada_lab.training import resume
from mada_lab.training.reporting import summary
from mada_lab.training.state import Session


@dataclass(frozen=True)
class Fixed:
    """What the losses of a run are taken on, always the same.

    Attributes:
        validation: Of the validation set.
        training: Of the training data, for the final training loss.
    """

    validation: Sequence[Batch]
    training: Sequence[Batch]

    @classmethod
    def of(cls, task: Task) -> "Fixed":
        """Those of the task. Raises DataError if there are too few data."""
        return cls(task.validation(), task.training())


@dataclass
class Training:
    """A run that is being trained: its session, and what it has open beside it.

    Attributes:
        session: All that moves.
        forward: The network, as a step calls it.
        fixed: What its losses are taken on.
        initial: The coefficients at its start.
        rows: Its record.
        saver: Writes its checkpoints.
        listen: Follows it.
        began: When it would have begun, had it never paused; of `time.monotonic`.
    """

    session: Session
    forward: nn.Module
    fixed: Fixed
    initial: dict[str, float]
    rows: RunRecord | NoRecord
    saver: Saver | NoSaver
    listen: Listener
    began: float

    @classmethod
    def begin(cls, session: Session, fixed: Fixed, saver: Saver | NoSaver, listen: Listener) -> "Training":
        """Opens the record, and takes up the checkpoint if the run is resumed; the folder is this process's.

        Raises:
            ConfigError, CheckpointError: As `resume.open_record`.
        """
        config, initial = session.config, session.coefficients()
        rows = resume.open_record(session)
        forward = torch.compile(session.model) if config.compile else session.model
        forward = distributed.wrapped(forward, config.parallel, session.world)
        began = time.monotonic() - session.seconds
        return cls(session, forward, fixed, initial, rows, saver, listen, began)

    def save(self) -> None:
        """Writes a checkpoint, if there is none of this step yet. Rows go first: no checkpoint is ahead of them."""
        session, rows, saver, world = self.session, self.rows, self.saver, self.session.world
        if not world.told(bool(world.on_first(lambda: saver.has(session.step)))):
            rows.sync()
            if isinstance(saver, GroupSaver):
                saver.save(session.checkpoint(whole=False))
                return
            state = session.checkpoint()
            world.on_first(lambda: saver.save(state))

    def stop(self) -> None:
        """Saves the run as it stands, for another day."""
        self.save()
        self.rows.close()
        self.saver.close()

    def finish(self, signals: Signals) -> None:
        """The last loss, and the summary."""
        session = self.session
        with signals.abandonable(), evaluated(session.optimizer):
            found = session.task.measure(self.forward, self.fixed.training, session.precision, session.world)
        session.world.on_first(self.saver.settle)
        session.world.on_first(lambda: self.rows.finish(summary(session, self.initial, found.loss)))
        session.world.on_first(self.saver.close)
