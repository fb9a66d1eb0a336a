"""Checkpoints that all processes write together, each its own shards."""

from mada_lab.checkpoints import checkpoint
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.checkpoints.saver import NoSaver, Saver
from mada_lab.compute import finite
from mada_lab.compute.world import World
from mada_lab.config.keys import RunConfig
from mada_lab.errors import CheckpointError, NumericsError


class GroupSaver(Saver):
    """The saver of each process of a group: they succeed together, or fail together."""

    def __init__(self, config: RunConfig, world: World) -> None:
        super().__init__(config)
        self._world, self._is_told = world, world.is_first

    def save(self, state: Checkpoint) -> None:
        """As in `Saver`, on all processes. The first one tells of an error that training survives."""
        taken = checkpoint.snapshot(state)
        own = {**taken.tensors, **taken.pieces}
        self._world.together(lambda: finite.require_finite(own, taken.step), NumericsError)
        try:
            checkpoint.write_together(self._folder, taken, self._keep, self._world)
            self._failed = None
        except CheckpointError as error:
            self._take(error)


def saver_of(config: RunConfig, world: World) -> Saver | NoSaver:
    """Who writes this process's part of the checkpoints."""
    if world.size > 1 and config.parallel != "ddp" and config.checkpoint_shards == "each":
        return GroupSaver(config, world)
    return Saver(config) if world.is_first else NoSaver()
