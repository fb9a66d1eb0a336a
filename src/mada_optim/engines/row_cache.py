"""What a kernel has prepared for the state of a parameter.

A row has addresses in it. That the tensors still lie there is compared at every step for all states at once
(`mada_optim.stepping.reuse`), and all rows are forgotten when they don't.
"""

from collections.abc import Callable, Iterable
from operator import is_
from typing import Generic, TypeVar

import torch
from torch import Tensor

Row = TypeVar("Row")
NOTHING: tuple[list[str], list[Tensor], None, None] = ([], [], None, None)


class States(Generic[Row]):
    """Rows by state, each made once.

    The tensors of a state are held: none can be mistaken for a later one.

    Args:
        make: Gives the row of a state for a parameter of some shape; None where the kernel can't move it.
    """

    def __init__(self, make: Callable[[dict[str, Tensor], torch.Size], Row | None]) -> None:
        self._make = make
        self._rows: dict[int, tuple[list[str], list[Tensor], torch.Size, Row | None]] = {}

    def row(self, state: dict[str, Tensor], shape: torch.Size) -> Row | None:
        """The row of `state`, whose tensors are what and where they were since all rows were forgotten."""
        names, held, for_shape, row = self._rows.get(id(state), NOTHING)
        if for_shape != shape or names != [*state] or not all(map(is_, held, state.values())):
            row = self._make(state, shape)
            self._rows[id(state)] = ([*state], [*state.values()], shape, row)
        return row

    def keep(self, states: Iterable[dict[str, Tensor]], count: int) -> None:
        """Forgets, where there are many more than `count`, all but `states`: those that were replaced."""
        if len(self._rows) > 2 * count:
            self._rows = {id(state): self._rows[id(state)] for state in states if id(state) in self._rows}
