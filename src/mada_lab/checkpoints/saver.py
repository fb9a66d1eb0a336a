"""Saves the checkpoints of a run, in the training loop or in the background; handles a failing disk."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self

from mada_lab.checkpoints import checkpoint, folder
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.compute import finite
from mada_lab.compute.world import ALONE, World
from mada_lab.config.keys import RunConfig
from mada_lab.errors import CheckpointError, NumericsError

logger = logging.getLogger(__name__)


class Saver:
    """Writes the checkpoints of a run, together with the savers of the other processes in `world`.

    In the background it writes one at a time, from copies.
    """

    def __init__(self, config: RunConfig, world: World = ALONE) -> None:
        self.failed: CheckpointError | None = None  #: the error of the last checkpoint, if training went on after it
        self.in_background, self.is_shared = config.background_save, world.size > 1
        self._folder, self._keep, self._world = config.folder, config.keep_checkpoints, world
        self._abort = config.on_save_error == "abort"
        self._pool = ThreadPoolExecutor(1, "checkpoint") if self.in_background else None
        self._in_flight: Future[Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the checkpoint in flight; warns of its error and raises nothing."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        if self._in_flight is not None and (error := self._in_flight.exception()) is not None:
            logger.warning("%s", error)

    def has(self, step: int) -> bool:
        """Whether the checkpoint of `step` exists; waits for one in flight."""
        self.settle()
        return folder.path_of(self._folder, step).exists()

    def save(self, state: Checkpoint) -> None:
        """Writes a checkpoint, or begins to.

        Raises:
            NumericsError: A number in it is not finite; nothing is written.
            CheckpointError: This checkpoint, or the one before, can't be written, and `on_save_error` is abort.
        """
        self.settle()
        taken = checkpoint.snapshot(state, copy=self.in_background)
        tensors = {**taken.tensors, **taken.pieces}
        self._world.together(lambda: finite.require_finite(tensors, taken.step), NumericsError)
        write = partial(checkpoint.write, self._folder, taken, self._keep, self._world)
        if self._pool is not None:
            self._in_flight = self._pool.submit(write)
        else:
            self._conclude(write)

    def poll(self) -> None:
        """Settles a checkpoint that was written in the background, if it is complete."""
        if self._in_flight is not None and self._in_flight.done():
            self.settle()

    def settle(self) -> None:
        """Waits for the checkpoint in flight, if there is one; raises its error, or warns of it."""
        if self._in_flight is not None:
            writing, self._in_flight = self._in_flight, None
            self._conclude(writing.result)

    def close(self) -> None:
        """Raises the error of the last checkpoint, if there was one: the steps since the one before would be lost."""
        self.settle()
        if self.failed is not None:
            raise self.failed

    def _conclude(self, write: Callable[[], object]) -> None:
        try:
            write()
            self.failed = None
        except CheckpointError as error:
            if self._abort:
                raise
            self.failed = error
            if self._world.is_first:
                logger.warning("%s. Training goes on; the checkpoints before this one are as they were", error)


class WritesNothing:
    """Stands in for the saver and the record on processes that write neither."""

    is_shared = False

    def __enter__(self) -> Self:
        return self

    def has(self, step: int) -> bool:
        """Not asked: the first process knows."""
        return True

    def nothing(self, *_: object) -> None:
        """Does nothing."""

    __exit__ = save = poll = settle = close = log = sync = finish = nothing


def saver_of(config: RunConfig, world: World) -> Saver | WritesNothing:
    """The saver of this process."""
    if world.size > 1 and config.parallel != "ddp" and config.checkpoint_shards == "each":
        return Saver(config, world)
    return Saver(config) if world.is_first else WritesNothing()
