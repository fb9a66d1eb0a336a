"""Matrices whose shards lie on several processes, for a function that needs them whole: each process takes some.

The shards of a matrix go to one process, which puts them together, and what it makes of the whole comes back in shards:
two messages for many matrices at once. Were each matrix gathered on every one of N processes, all of them would do all
of the work, and each would be sent N / 2 times as much.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim import layouts

Function = Callable[[Tensor], Tensor]


class Piece(NamedTuple):
    """What a process has of a parameter.

    Attributes:
        shard: A contiguous shard.
        whole: The DTensor whose layout it has.
        matrices: Where the matrices are in the whole.
    """

    shard: Tensor
    whole: Any
    matrices: layouts.Layout = True


class Layout(NamedTuple):
    """Over what the rows of a matrix are cut.

    Attributes:
        mesh: The processes.
        dimension: The one dimension of the mesh over which they are; on the others there are replicas.
    """

    mesh: Any
    dimension: int

    @property
    def world(self) -> int:
        """How many processes share a matrix."""
        size: int = self.mesh.size(self.dimension)
        return size


def layout(p: Any) -> Layout | None:
    """That of a DTensor, as `fully_shard` leaves it; None for one that is cut otherwise, or not at all."""
    from torch.distributed.tensor import Shard

    cuts = [(i, x) for i, x in enumerate(p.placements) if not x.is_replicate()]
    if len(cuts) != 1 or type(cuts[0][1]) is not Shard or cuts[0][1].dim != 0:
        return None
    return Layout(p.device_mesh, cuts[0][0])


def share(shape: torch.Size, rank: int, world: int) -> int:
    """How many elements of a matrix a process has, if its rows are cut as `torch.chunk` does: the last have less."""
    rows = -(-shape[0] // world)
    return max(min(rows, shape[0] - rank * rows), 0) * shape[1:].numel()


def largest_share(p: Any) -> int:
    """The most elements that any process has of a DTensor that has a `layout`."""
    where = layout(p)
    assert where is not None
    return share(p.shape, 0, where.world)


def takers(work: Sequence[float], world: int) -> list[int]:
    """Who takes each piece of work, so that all have about as much: the largest first, to who has least so far."""
    taken, of_each = [0] * len(work), [0.0] * world
    for i in sorted(range(len(work)), key=work.__getitem__, reverse=True):
        taken[i] = of_each.index(min(of_each))
        of_each[taken[i]] += work[i]
    return taken


def replace(function: Function, pieces: Sequence[Piece]) -> None:
    """Overwrites the shards of matrices by those of `function(matrix)`, or of a batch of equal ones, of its shape.

    Every process of their meshes calls it, with the same matrices in the same order, all of which have a `layout`.
    """
    by_layout: dict[Layout | None, list[Piece]] = {}
    for piece in pieces:
        by_layout.setdefault(layout(piece.whole), []).append(piece)
    for where, some in by_layout.items():
        assert where is not None
        _replace(function, where, some)


def _replace(function: Function, where: Layout, pieces: list[Piece]) -> None:
    ranks, me = range(where.world), where.mesh.get_local_rank(where.dimension)
    taken = takers([_products(piece) for piece in pieces], where.world)
    by_taker = sorted(zip(taken, pieces, strict=True), key=itemgetter(0))
    shards = [piece.shard for _, piece in by_taker]
    mine = [piece for taker, piece in by_taker if taker == me]
    going = [sum(piece.shard.numel() for taker, piece in by_taker if taker == rank) for rank in ranks]
    coming = [[share(piece.whole.shape, rank, where.world) for piece in mine] for rank in ranks]

    group, sums = where.mesh.get_group(where.dimension), list(map(sum, coming))
    here = torch.cat([shard.flatten() for shard in shards])
    there = here.new_empty(sum(sums))
    torch.distributed.all_to_all_single(there, here, sums, going, group=group)
    _apply(function, mine, _pieces(there, coming))
    torch.distributed.all_to_all_single(here, there, going, sums, group=group)
    for shard, new in zip(shards, torch.split(here, [x.numel() for x in shards]), strict=True):
        shard.copy_(new.view_as(shard))


def _pieces(message: Tensor, sizes: list[list[int]]) -> list[list[Tensor]]:
    """A message as the shards that it is made of, by the process that they are of."""
    shards = iter(torch.split(message, [size for of_rank in sizes for size in of_rank]))
    return [[next(shards) for _ in of_rank] for of_rank in sizes]


def _apply(function: Function, pieces: list[Piece], by_rank: list[list[Tensor]]) -> None:
    for piece, *shards in zip(pieces, *by_rank, strict=True):
        whole = layouts.of_each(function, torch.cat(shards).view(piece.whole.shape), piece.matrices).flatten()
        for shard, new in zip(shards, torch.split(whole, [x.numel() for x in shards]), strict=True):
            shard.copy_(new)


def _products(piece: Piece) -> float:
    """What products with a matrix and itself cost, but for a factor."""
    count, rows, columns = layouts.as_matrices(piece.whole.shape, piece.matrices)
    return count * min(rows, columns) ** 2 * max(rows, columns)
