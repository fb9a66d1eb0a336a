"""What a kernel has prepared for the state of a parameter."""

from collections.abc import Callable, Iterable
from operator import is_
from typing import Generic, TypeVar

from torch import Tensor

Row = TypeVar("Row")


class States(Generic[Row]):
    """Rows by state, each made once.

    The tensors of a state are held: none can be mistaken for a later one at its address.

    Args:
        make: Gives the row of a state for a parameter of some size; None where the kernel can't move it.
    """

    def __init__(self, make: Callable[[dict[str, Tensor], int], Row | None]) -> None:
        self._make = make
        self._rows: dict[int, tuple[list[Tensor], int, Row | None]] = {}

    def row(self, state: dict[str, Tensor], size: int) -> Row | None:
        """The row of `state` as it is now."""
        held, for_size, row = self._rows.get(id(state), ([], -1, None))
        if for_size != size or len(held) != len(state) or not all(map(is_, held, state.values())):
            row = self._make(state, size)
            self._rows[id(state)] = (list(state.values()), size, row)
        return row

    def keep(self, states: Iterable[dict[str, Tensor]], count: int) -> None:
        """Forgets, where there are many more than `count`, all but `states`: those that were replaced."""
        if len(self._rows) > 2 * count:
            self._rows = {id(state): self._rows[id(state)] for state in states if id(state) in self._rows}
