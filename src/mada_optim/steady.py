"""The tensors of a step. Most are those of the step before, but for gradients: what was found out then, holds.

To see that it does takes half of the time that it takes to find it out, which shows where tensors are small or many
(docs/performance.md).
"""

from collections.abc import Mapping, MutableMapping
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor

from mada_optim.cells import Cells, State
from mada_optim.dispatch import Dispatcher, Work
from mada_optim.engine.eager import Cell
from mada_optim.kernels.cpu import plain
from mada_optim.kernels.table import Table

Group = dict[str, Any]


class Last(NamedTuple):
    """What was found out in a step whose tensors all went through the same loops, as they are.

    Attributes:
        table: Those that had a gradient.
        sizes: Elements of each of these.
        scopes: Rows of their learned coefficients.
        idle: The parameters that had none.
        params: All parameters, in the order of their groups.
        groups: The groups.
        fixed: The numbers in them that decide what the rule comes to.
        states: All tensors of all states.
    """

    table: Table
    sizes: list[int]
    scopes: set[int]
    idle: list[Tensor]
    params: list[Tensor]
    groups: list[Group]
    fixed: list[Any]
    states: list[Tensor]


class Steady:
    """Finds out what a step has to move, and by what, or sees that it is what the last one had.

    Args:
        cells: Of the optimizer's parameters.
        dispatcher: Of these to engines.
    """

    def __init__(self, cells: Cells, dispatcher: Dispatcher) -> None:
        self._cells, self._dispatcher = cells, dispatcher
        self._last: Last | None = None

    def work(self, groups: list[Group], states: MutableMapping[Tensor, State]) -> Work:
        """The tensors of a step.

        Raises:
            RuntimeError: A gradient is sparse; nothing is changed.
        """
        self._cells.adopt(groups)
        last = self._last
        if last is not None and self._is_as_it_was(last, groups, states):
            gs: list[Any] = [p.grad for p in last.table.columns.ps]
            if all(map(plain, gs)):
                return Work([last.table.on(gs)], [], last.scopes)
        cells = self._cells.of_step(groups, states)
        work = self._dispatcher.share_out(cells)
        self._last = None if work.table is None else self._found_out(groups, states, cells, work.table)
        return work

    def _is_as_it_was(self, last: Last, groups: list[Group], states: Mapping[Tensor, State]) -> bool:
        """Whether nothing has changed but gradients, and learned and other numbers that are read at each step."""
        ps = last.table.columns.ps
        return (
            same(groups, last.groups)
            and same(params_of(groups), last.params)
            and same(tensors_of(states), last.states)
            and same(self._cells.fixed(groups), last.fixed)
            and not any(group["maximize"] for group in groups)
            and all(p.grad is None for p in last.idle)
            and all(map(plain, ps))
            and list(map(Tensor.numel, ps)) == last.sizes
        )

    def _found_out(
        self, groups: list[Group], states: Mapping[Tensor, State], cells: list[Cell], table: Table
    ) -> Last | None:
        """What there is to remember; None where a tensor isn't a parameter, or what it sees isn't a group."""
        owned = [(p, group) for group in groups for p in group["params"]]
        moved = [(p, group) for p, group in owned if p.grad is not None]
        if not all(cell.p is p and cell.options is group for cell, (p, group) in zip(cells, moved, strict=True)):
            return None
        return Last(
            table=table,
            sizes=list(map(Tensor.numel, table.columns.ps)),
            scopes=set(table.columns.scopes),
            idle=[p for p, _ in owned if p.grad is None],
            params=[p for p, _ in owned],
            groups=list(groups),
            fixed=self._cells.fixed(groups),
            states=tensors_of(states),
        )


def same(xs: list[Any], ys: list[Any]) -> bool:
    """Whether they are the same objects."""
    return len(xs) == len(ys) and all(map(is_, xs, ys))


def params_of(groups: list[Group]) -> list[Tensor]:
    """The parameters of all groups."""
    return list(chain.from_iterable(group["params"] for group in groups))


def tensors_of(states: Mapping[Tensor, State]) -> list[Tensor]:
    """What all states hold."""
    return [x for state in states.values() for x in state.values()]
