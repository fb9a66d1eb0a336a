"""How a tensor is cut into pieces, one per process that shares it: rows of its first dimension, in order.

As in `fully_shard`, each piece has the length divided by the number of pieces, rounded up; the last pieces have what is
left, maybe nothing. So shape and number of pieces determine which rows lie where, without gaps or overlaps.
"""

from dataclasses import dataclass

from torch import Tensor

from mada_optim.sharding import dtensors


@dataclass(frozen=True)
class Place:
    """Which piece of each shared tensor a process has."""

    number: int  #: number of the piece, from 0
    count: int  #: pieces of a tensor
    is_first: bool  #: whether no process before this one has the same piece


def rows(length: int, number: int, count: int) -> tuple[int, int]:
    """The first row of a piece, and the row after its last."""
    most = -(-length // count)
    return min(number * most, length), min((number + 1) * most, length)


def overlaps(length: int, count: int, start: int, stop: int) -> list[tuple[int, int, int]]:
    """The pieces that hold rows `start` to `stop`: number, and first and end among the piece's own rows."""
    parts = []
    most = max(1, -(-length // count))
    for number in range(start // most, -(-stop // most)):
        first, end = rows(length, number, count)
        parts.append((number, max(start, first) - first, min(stop, end) - first))
    return parts


def place(x: Tensor) -> Place:
    """This process's place among those that share the DTensor `x`. Raises ValueError if `x` is cut in another way."""
    placements, mesh, length = x.placements, x.device_mesh, dtensors.local(x).shape[0]  # type: ignore[attr-defined]
    cut = [i for i, placement in enumerate(placements) if not placement.is_replicate()]
    if len(cut) != 1 or not placements[cut[0]].is_shard(0):
        raise ValueError(f"expected a tensor cut along its first dimension, got {placements}")
    here = mesh.get_coordinate()
    this = Place(here[cut[0]], mesh.size(cut[0]), all(at == 0 for i, at in enumerate(here) if i != cut[0]))
    first, end = rows(x.shape[0], this.number, this.count)
    if length != end - first:
        raise ValueError(f"expected {end - first} rows of {x.shape[0]} on this process, got {length}")
    return this
