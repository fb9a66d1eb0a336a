"""The tensors of a step. Most are those of the step before, but for gradients: what was found out then, holds.

To see that it does takes half of the time that it takes to find it out, which shows where tensors are small or many
(docs/results/performance.md).
"""

from array import array
from collections.abc import Mapping, MutableMapping
from itertools import chain
from operator import methodcaller
from typing import Any, NamedTuple

from torch import Tensor

from mada_optim.engines.cpp import tensors
from mada_optim.engines.cpp.table import Table
from mada_optim.engines.cpp.tensors import placement_of, sizes_of
from mada_optim.engines.eager import Cell
from mada_optim.placement import Placement
from mada_optim.stepping.collect import Cells, State
from mada_optim.stepping.dispatch import Dispatcher, Work
from mada_optim.stepping.members import same

Group = dict[str, Any]
VALUES = methodcaller("values")


class Last(NamedTuple):
    """What was found out in a step whose tensors all went through the same loops, as they are.

    Attributes:
        table: Those that had a gradient.
        sizes: Of these.
        scopes: Rows of their learned coefficients.
        idle: The parameters that had none.
        params: All parameters, in the order of their groups.
        groups: The groups.
        fixed: The numbers in them that decide what the rule comes to.
        owners: Ids of the parameters that have a state, in its order.
        names: What states hold, in their order.
    """

    table: Table
    sizes: "array[int]"
    scopes: set[int]
    idle: list[Tensor]
    params: list[Tensor]
    groups: list[Group]
    fixed: list[Any]
    owners: list[int]
    names: list[str]


class Steady:
    """Finds out what a step has to move, and by what, or sees that it is what the last one had.

    Args:
        cells: Of the optimizer's parameters.
        dispatcher: Of these to engines.
    """

    def __init__(self, cells: Cells, dispatcher: Dispatcher) -> None:
        self._cells, self._dispatcher = cells, dispatcher
        self._last: Last | None = None
        self._placement: Placement | tensors.Placement | None = None

    def work(self, groups: list[Group], states: MutableMapping[Tensor, State], begin: bool = True) -> Work:
        """The tensors of a step.

        Args:
            groups: The parameters.
            states: What is kept for each.
            begin: Whether parameters that have no state yet get one, and are among them.

        Raises:
            RuntimeError: A gradient is sparse, or a tensor can't be used as it is now; nothing is changed.
        """
        self._cells.adopt(groups)
        before = tensors_of(states)
        unmoved = self._placement is not None and self._placement.holds(before)
        if not unmoved:
            self._last = self._placement = None
            self._dispatcher.forget()
        if self._last is not None and self._is_as_it_was(self._last, groups, states):
            table = self._last.table
            gradients = [p.grad for p in table.columns.ps]
            if table.follow(gradients, self._last.sizes):
                return Work([table], [], self._last.scopes, gradients)
        cells = self._cells.of_step(groups, states, begin)
        work = self._dispatcher.share_out(cells)
        self._last = None if work.table is None else self._found_out(groups, states, cells, work.table)
        if self._dispatcher.keeps_addresses and not (unmoved and sum(map(len, states.values())) == len(before)):
            self._placement = placement_of(tensors_of(states))
        return work

    def _is_as_it_was(self, last: Last, groups: list[Group], states: Mapping[Tensor, State]) -> bool:
        """Whether nothing has changed but gradients, and learned and other numbers that are read at each step."""
        return (
            same(groups, last.groups)
            and same(params_of(groups), last.params)
            and list(map(id, states)) == last.owners
            and list(chain.from_iterable(states.values())) == last.names
            and same(self._cells.fixed(groups), last.fixed)
            and not any(group["maximize"] for group in groups)
            and all(p.grad is None for p in last.idle)
        )

    def _found_out(
        self, groups: list[Group], states: Mapping[Tensor, State], cells: list[Cell], table: Table
    ) -> Last | None:
        """What there is to remember; None where a tensor isn't a parameter, or has no state yet, or sees no group."""
        owned = [(p, group) for group in groups for p in group["params"]]
        moved = [(p, group) for p, group in owned if p.grad is not None]
        if len(cells) != len(moved):
            return None
        if not all(cell.p is p and cell.options is group for cell, (p, group) in zip(cells, moved, strict=True)):
            return None
        return Last(
            table=table,
            sizes=sizes_of(table.columns.ps),
            scopes=set(table.columns.scopes),
            idle=[p for p, _ in owned if p.grad is None],
            params=[p for p, _ in owned],
            groups=list(groups),
            fixed=self._cells.fixed(groups),
            owners=list(map(id, states)),
            names=list(chain.from_iterable(states.values())),
        )


def params_of(groups: list[Group]) -> list[Tensor]:
    """The parameters of all groups."""
    return list(chain.from_iterable(group["params"] for group in groups))


def tensors_of(states: Mapping[Tensor, State]) -> list[Tensor]:
    """What all states hold."""
    return list(chain.from_iterable(map(VALUES, states.values())))
