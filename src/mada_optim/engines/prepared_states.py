"""Keeps what a kernel has prepared for the state of each parameter, as addresses.

`mada_optim.stepping.reuse` compares at every step whether the tensors of all states are still in the same place, and
makes kernels forget everything if they are not.
"""

from collections.abc import Callable
from operator import is_
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mada_optim.engines.protocol import StepInput

Prepared = TypeVar("Prepared")
UNKNOWN: tuple[list[str], list[Tensor], None, None] = ([], [], None, None)


class PreparedStates(Generic[Prepared]):
    """The prepared states of a kernel. Holds the tensors, so that no later tensor can be mistaken for them.

    `make` prepares a state for a parameter of some shape, or returns None.
    """

    def __init__(self, make: Callable[[dict[str, Tensor], torch.Size], Prepared | None]) -> None:
        self._make = make
        self._known: dict[int, tuple[list[str], list[Tensor], torch.Size, Prepared | None]] = {}

    def get(self, state: dict[str, Tensor], shape: torch.Size) -> Prepared | None:
        """The prepared `state`; prepares it again if its tensors or the shape have changed."""
        names, held, known_shape, prepared = self._known.get(id(state), UNKNOWN)
        if known_shape != shape or names != [*state] or not all(map(is_, held, state.values())):
            prepared = self._make(state, shape)
            self._known[id(state)] = ([*state], [*state.values()], shape, prepared)
        return prepared

    def forget_others(self, entries: list[StepInput]) -> None:
        """Drops all but the states of `entries`, if there are more than twice as many."""
        if len(self._known) > 2 * len(entries):
            ids = [id(entry.state) for entry in entries if id(entry.state) in self._known]
            self._known = {key: self._known[key] for key in ids}
