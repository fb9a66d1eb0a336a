"""Divides sharded matrices among processes, for a function that needs them whole.

The shards of a matrix go to one process, which joins them, and the result comes back in shards: two messages for many
matrices at once. If each of N processes gathered every matrix, all would do all of the work, and receive N / 2 times as
much.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim import layouts

Function = Callable[[Tensor], Tensor]


class Piece(NamedTuple):
    """A contiguous shard, the DTensor that it is a part of, and where the matrices are in the whole."""

    shard: Tensor
    whole: Any
    matrices: layouts.Layout = True


class Layout(NamedTuple):
    """The mesh, and its one dimension over which rows are cut; over the others there are replicas."""

    mesh: Any
    dimension: int

    @property
    def world(self) -> int:
        """How many processes share a matrix."""
        size: int = self.mesh.size(self.dimension)
        return size


def layout(p: Any) -> Layout | None:
    """The layout of a DTensor, as `fully_shard` leaves it; None if it is cut differently, or not at all."""
    from torch.distributed.tensor import Shard

    cuts = [(i, x) for i, x in enumerate(p.placements) if not x.is_replicate()]
    if len(cuts) != 1 or type(cuts[0][1]) is not Shard or cuts[0][1].dim != 0:
        return None
    return Layout(p.device_mesh, cuts[0][0])


def gathered_whole(params: Sequence[Any]) -> str | None:
    """Which of these DTensors have no `layout`, so that each process gathers them, and what it costs; None if none."""
    some = [p for p in params if layout(p) is None]
    if not some:
        return None
    size = sum(p.numel() for p in some)
    return (
        f"{len(some)} hidden matrices, {size:,} elements, are not sharded by rows over one dimension of a mesh: that "
        f"of shape {tuple(some[0].shape)} is {some[0].placements}. In each step every process gathers them whole "
        f"(about {4 * size:,} bytes) and orthogonalizes all of them. Sharded as by FSDP2 alone, they would be divided"
    )


def share(shape: torch.Size, rank: int, world: int) -> int:
    """The number of elements of one process, if rows are cut as by `torch.chunk`."""
    rows = -(-shape[0] // world)
    return max(min(rows, shape[0] - rank * rows), 0) * shape[1:].numel()


def largest_share(p: Any) -> int:
    """The largest number of elements on any process."""
    where = layout(p)
    assert where is not None
    return share(p.shape, 0, where.world)


def takers(work: Sequence[float], world: int) -> list[int]:
    """The process for each piece of work: the largest first, each to the least busy process."""
    taken, of_each = [0] * len(work), [0.0] * world
    for i in sorted(range(len(work)), key=work.__getitem__, reverse=True):
        taken[i] = of_each.index(min(of_each))
        of_each[taken[i]] += work[i]
    return taken


def replace(function: Function, pieces: Sequence[Piece]) -> None:
    """Overwrites the shards of matrices by those of `function(matrix)`, which has the matrix's shape.

    Every process of their meshes must call it, with the same matrices in the same order, all of which have a `layout`.
    """
    by_layout: dict[Layout | None, list[Piece]] = {}
    for piece in pieces:
        by_layout.setdefault(layout(piece.whole), []).append(piece)
    for where, some in by_layout.items():
        assert where is not None
        _replace(function, where, some)


def _replace(function: Function, where: Layout, pieces: list[Piece]) -> None:
    ranks, me = range(where.world), where.mesh.get_local_rank(where.dimension)
    taken = takers([products(piece.whole.shape, piece.matrices) for piece in pieces], where.world)
    by_taker = sorted(zip(taken, pieces, strict=True), key=itemgetter(0))
    shards = [piece.shard for _, piece in by_taker]
    taken_here = [piece for taker, piece in by_taker if taker == me]
    going = [sum(piece.shard.numel() for taker, piece in by_taker if taker == rank) for rank in ranks]
    coming = [[share(piece.whole.shape, rank, where.world) for piece in taken_here] for rank in ranks]

    group, sums = where.mesh.get_group(where.dimension), list(map(sum, coming))
    here = torch.cat([shard.flatten() for shard in shards])
    there = here.new_empty(sum(sums))
    torch.distributed.all_to_all_single(there, here, sums, going, group=group)
    _apply(function, taken_here, _pieces(there, coming))
    torch.distributed.all_to_all_single(here, there, going, sums, group=group)
    for shard, new in zip(shards, torch.split(here, [x.numel() for x in shards]), strict=True):
        shard.copy_(new.view_as(shard))


def _pieces(message: Tensor, sizes: list[list[int]]) -> list[list[Tensor]]:
    shards = iter(torch.split(message, [size for of_rank in sizes for size in of_rank]))
    return [[next(shards) for _ in of_rank] for of_rank in sizes]


def _apply(function: Function, pieces: list[Piece], by_rank: list[list[Tensor]]) -> None:
    for piece, *shards in zip(pieces, *by_rank, strict=True):
        whole = layouts.of_each(function, torch.cat(shards).view(piece.whole.shape), piece.matrices).flatten()
        for shard, new in zip(shards, torch.split(whole, [x.numel() for x in shards]), strict=True):
            shard.copy_(new)


def sum_over_shards(parts: Sequence[Tensor], wholes: Sequence[Any]) -> None:
    """Overwrites numbers of sharded matrices by their sums over the processes that share each: one message for all.

    Args:
        parts: A tensor for each matrix; all have one dtype and device.
        wholes: For each, the DTensor that it belongs to, which has a `layout`; None for a whole matrix, left as it is.
    """
    by_layout: dict[Layout, list[Tensor]] = {}
    for part, whole in zip(parts, wholes, strict=True):
        if whole is not None:
            by_layout.setdefault(layout(whole), []).append(part)  # type: ignore[arg-type]
    for where, some in by_layout.items():
        message = torch.cat([part.flatten() for part in some])
        torch.distributed.all_reduce(message, group=where.mesh.get_group(where.dimension))
        for part, new in zip(some, torch.split(message, [part.numel() for part in some]), strict=True):
            part.copy_(new.view_as(part))


def products(shape: torch.Size, matrices: layouts.Layout) -> float:
    """The operations of a polar factor, up to a factor: four steps on each matrix, or on its product with itself."""
    count, rows, columns = layouts.as_matrices(shape, matrices)
    short, long = sorted((rows, columns))
    return count * short**2 * min(4 * long + 2 * short, long + 8 * short)
