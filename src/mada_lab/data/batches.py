"""Batches of consecutive tokens at random offsets, from a random generator of their own."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mada_lab.data.disk_array import DiskArray
from mada_lab.errors import DataError

# XOR with this makes the seed of evaluation sets: with the same seed for both, a run would evaluate on the batches that
# it trains with first.
EVALUATION_STREAM = 0x5EED_E7A1


class Batches:
    """An endless sequence of training batches, determined by the tokens, the sizes and the seed.

    With several processes, each takes every `world`-th batch of the same sequence.
    """

    def __init__(
        self,
        tokens: NDArray[Any] | DiskArray,
        block_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Starts the sequence. Raises DataError for fewer than block_size + 1 tokens, a row and its targets.

        Args:
            tokens: Token ids: shape (n,), any integer type.
            block_size: Tokens in a row of a batch.
            batch_size: Rows in a batch.
            seed: Seed of the offsets.
            rank: Number of this process.
            world: Number of processes.
        """
        if len(tokens) < block_size + 1:
            raise DataError(
                f"split, with block_size {block_size}: expected at least {block_size + 1} tokens, got {len(tokens)}; "
                "reduce block_size, or use a larger data set"
            )
        self._tokens = tokens
        self._batch_size = batch_size
        self._rank, self._world = rank, world
        self._length = block_size + 1
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: inputs, and targets one token further, each int64 of shape (batch_size, block_size)."""
        starts = len(self._tokens) - self._length + 1
        drawn = [torch.randint(starts, (self._batch_size, 1), generator=self._generator) for _ in range(self._world)]
        offsets = drawn[self._rank].flatten().tolist()
        stretches = [self._tokens[start : start + self._length] for start in offsets]
        rows = torch.from_numpy(np.stack(stretches).astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def state(self) -> Tensor:
        """The position in the sequence, for a checkpoint: uint8, on the CPU."""
        return self._generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Continues from a position of a sequence with the same tokens and sizes."""
        self._generator.set_state(state.cpu())


def fixed_batches(
    tokens: NDArray[Any] | DiskArray, block_size: int, batch_size: int, count: int, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """The evaluation set: `count` batches, the same for the same arguments. Raises DataError as `Batches`."""
    batches = Batches(tokens, block_size, batch_size, seed ^ EVALUATION_STREAM)
    return [batches.next() for _ in range(count)]
