"""Divides whole matrices among processes that all have them and have equal gradients, as under DDP.

Each process computes a function of some matrices, and sends the results to the others: every result crosses the network
once to each process. A broadcast writes in place, and moves no padding, where an all-gather would need equal parts.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mada_optim.layouts import Layout
from mada_optim.sharding import exchange
from mada_optim.sharding.dtensors import is_sharded


class Sharing:
    """The processes of one group, as one of them sees them. All must make the same calls in the same order.

    Attributes:
        rank: The number of this process in the group.
        world: How many processes share the work.
        ranks: The numbers of all of them.
    """

    def __init__(self, group: Any) -> None:
        self._group, self.rank, self.world = group, dist.get_rank(group), dist.get_world_size(group)
        self.ranks = range(self.world)
        self._sources = dist.get_process_group_ranks(group)
        self._paused = False

    @property
    def divides(self) -> bool:
        """Whether there is work to divide now."""
        return self.world > 1 and not self._paused

    @contextmanager
    def paused(self, where: bool = True) -> Iterator[None]:
        """Each process computes everything by itself within, as where gradients differ."""
        before, self._paused = self._paused, where or self._paused
        try:
            yield
        finally:
            self._paused = before

    def takers(self, matrices: Sequence[tuple[torch.Size, Layout]]) -> list[int]:
        """The process for each parameter, of which shape and layout are given; a stack of matrices stays together."""
        return exchange.takers([exchange.products(shape, layout) for shape, layout in matrices], self.world)

    def send(self, parts: Sequence[Tensor]) -> None:
        """Overwrites `parts`, contiguous tensors, one of each process, by those of the process whose number they have.

        The messages have the bytes of all parts together, and this process receives all but its own.
        """
        messages = [
            dist.broadcast(part, src=source, group=self._group, async_op=True)
            for part, source in zip(parts, self._sources, strict=True)
            if part.numel()
        ]
        for message in messages:
            message.wait()

    def sum(self, x: Tensor) -> Tensor:
        """Replaces `x` by the sum over all processes, and returns it."""
        dist.all_reduce(x, group=self._group)
        return x

    def agree(self, present: Sequence[bool], device: torch.device) -> Tensor:
        """Whether `present` is the same on all processes, 0-d on `device`: a message of 16 bytes."""
        digest = zlib.crc32(bytes(present))
        ends = torch.tensor([digest, -digest], device=device)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=self._group)
        return ends[0] == -ends[1]


def require_whole(share_matrices: Any, group: dict[str, Any]) -> None:
    """Refuses sharded parameters (ValueError) in a new parameter group of an optimizer with `share_matrices`."""
    if share_matrices is None:
        return
    params = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
    if any(is_sharded(x[1] if isinstance(x, tuple) else x) for x in params):
        raise ValueError(
            "share_matrices: expected whole parameters, as under DDP, got DTensors, whose matrices are divided among "
            "their processes in any case (FSDP2); leave share_matrices out"
        )
