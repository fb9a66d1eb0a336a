"""How a tensor is cut into pieces, one per process that shares it: rows of its first dimension, in order.

The first pieces have the length divided by their number, rounded up, the last ones what is left, maybe nothing: so does
`fully_shard`. A shape and a number of pieces thus say which rows lie where: no gap or overlap can be written down.
"""

from dataclasses import dataclass

from torch import Tensor

from mada_optim.sharding import dtensors


@dataclass(frozen=True)
class Place:
    """Which piece of each shared tensor a process has.

    Attributes:
        number: From 0.
        count: Pieces of a tensor.
        is_first: Whether no other process before this one has the same.
    """

    number: int
    count: int
    is_first: bool


def rows(length: int, number: int, count: int) -> tuple[int, int]:
    """The first row of a piece, and the row behind its last."""
    most = -(-length // count)
    return min(number * most, length), min((number + 1) * most, length)


def overlaps(length: int, count: int, start: int, stop: int) -> list[tuple[int, int, int]]:
    """The pieces that rows `start` to `stop` lie in: number, and which of the piece's own rows, first and end."""
    found = []
    most = max(1, -(-length // count))
    for number in range(start // most, -(-stop // most)):
        first, end = rows(length, number, count)
        found.append((number, max(start, first) - first, min(stop, end) - first))
    return found


def place(x: Tensor) -> Place:
    """The place of this process among those that share the DTensor `x`.

    Raises:
        ValueError: It is cut otherwise.
    """
    placements, mesh, held = x.placements, x.device_mesh, dtensors.local(x).shape[0]  # type: ignore[attr-defined]
    cut = [i for i, placement in enumerate(placements) if not placement.is_replicate()]
    if len(cut) != 1 or not placements[cut[0]].is_shard(0):
        raise ValueError(f"expected a tensor cut along its first dimension, got {placements}")
    own = mesh.get_coordinate()
    found = Place(own[cut[0]], mesh.size(cut[0]), all(at == 0 for i, at in enumerate(own) if i != cut[0]))
    first, end = rows(x.shape[0], found.number, found.count)
    if held != end - first:
        raise ValueError(f"expected {end - first} rows of {x.shape[0]} on this process, got {held}")
    return found
