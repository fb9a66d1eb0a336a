"""Keeps what a kernel has prepared for the state of each parameter, as addresses.

`mada_optim.stepping.reuse` compares at every step whether the tensors of all states are still in the same place, and
makes kernels forget everything if they are not.
"""

from collections.abc import Callable, Iterable
from operator import is_
from typing import Generic, TypeVar

import torch
from torch import Tensor

Prepared = TypeVar("Prepared")
UNKNOWN: tuple[list[str], list[Tensor], None, None] = ([], [], None, None)


class PreparedStates(Generic[Prepared]):
    """What a kernel has prepared, by state. Holds the tensors, so that no later one can be mistaken for them.

    `make` prepares a state for a parameter of some shape, or returns None.
    """

    def __init__(self, make: Callable[[dict[str, Tensor], torch.Size], Prepared | None]) -> None:
        self._make = make
        self._known: dict[int, tuple[list[str], list[Tensor], torch.Size, Prepared | None]] = {}

    def get(self, state: dict[str, Tensor], shape: torch.Size) -> Prepared | None:
        """What was prepared for `state`, prepared anew if the state has other tensors or the shape has changed."""
        names, held, known_shape, prepared = self._known.get(id(state), UNKNOWN)
        if known_shape != shape or names != [*state] or not all(map(is_, held, state.values())):
            prepared = self._make(state, shape)
            self._known[id(state)] = ([*state], [*state.values()], shape, prepared)
        return prepared

    def forget_others(self, states: Iterable[dict[str, Tensor]], count: int) -> None:
        """Drops all but `states`, if there are more than twice as many as `count`."""
        if len(self._known) > 2 * count:
            self._known = {id(state): self._known[id(state)] for state in states if id(state) in self._known}
