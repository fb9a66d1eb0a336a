"""When a checkpoint is written, where (in the loop or beside it), and what it means if it can't be."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from mada_lab.checkpoints import checkpoint, folder
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.compute import finite
from mada_lab.config.keys import RunConfig
from mada_lab.errors import CheckpointError

logger = logging.getLogger(__name__)


class Saver:
    """Writes the checkpoints of a run. In the background it writes one at a time, from copies."""

    def __init__(self, config: RunConfig) -> None:
        self._folder, self._keep, self._is_told = Path(config.out_dir), config.keep_checkpoints, True
        self._abort = config.on_save_error == "abort"
        self._pool = ThreadPoolExecutor(1, "checkpoint") if config.background_save else None
        self._in_flight: Future[Path] | None = None
        self._failed: CheckpointError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits until nothing is being written any more; an error of it is told, not raised."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        if self._in_flight is not None and (error := self._in_flight.exception()) is not None:
            logger.warning("%s", error)

    def has(self, step: int) -> bool:
        """Whether the checkpoint of `step` is there, once nothing is in flight."""
        self.settle()
        return folder.path_of(self._folder, step).exists()

    def save(self, state: Checkpoint) -> None:
        """Writes `state`, or begins to.

        Raises:
            NumericsError: A number in it is not finite; nothing is written.
            CheckpointError: It, or the one before, can't be written, and `on_save_error` is abort.
        """
        self.settle()
        taken = checkpoint.snapshot(state, copy=self._pool is not None)
        finite.require_finite(taken.tensors, taken.step)
        if self._pool is not None:
            self._in_flight = self._pool.submit(checkpoint.write, self._folder, taken, self._keep)
            return
        try:
            checkpoint.write(self._folder, taken, self._keep)
            self._failed = None
        except CheckpointError as error:
            self._take(error)

    def poll(self) -> None:
        """Raises, or tells, the error of a checkpoint written in the background, if it is through."""
        if self._in_flight is not None and self._in_flight.done():
            self.settle()

    def settle(self) -> None:
        """Waits for the checkpoint in flight, if there is one, and raises, or tells, its error."""
        if self._in_flight is None:
            return
        writing, self._in_flight = self._in_flight, None
        try:
            writing.result()
            self._failed = None
        except CheckpointError as error:
            self._take(error)

    def close(self) -> None:
        """Raises the error of the last checkpoint, if there was one: what comes after it would be lost with it."""
        self.settle()
        if self._failed is not None:
            raise self._failed

    def _take(self, error: CheckpointError) -> None:
        if self._abort:
            raise error
        self._failed = error
        if self._is_told:
            logger.warning("%s. Training goes on; the checkpoints before this one are as they were", error)


class NoSaver:
    """In place of a saver on processes other than the first: it writes nothing."""

    def __enter__(self) -> "NoSaver":
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing."""

    def has(self, step: int) -> bool:
        """The first process knows."""
        return True

    def save(self, state: Checkpoint) -> None:
        """Does nothing."""

    def poll(self) -> None:
        """Does nothing."""

    def settle(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
