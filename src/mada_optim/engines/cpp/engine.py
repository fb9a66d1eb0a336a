"""The CPU engine: a rule's loops over all tensors as one job. This file decides which tensors they may have."""

import ctypes

import torch
from torch import Tensor

from mada_optim.engines.cpp.table import JOB, Columns, Row, Table
from mada_optim.engines.cpp.tensors import WORD, plain
from mada_optim.engines.eager import Cell, Memory, state_names
from mada_optim.engines.row_cache import States
from mada_optim.placement import intact
from mada_optim.rule import Rule


class Loops:
    """The loops for one form of a rule, and the choice of the tensors that they may have.

    Args:
        rule: The whole rule.
        form: What is left of it, with the slots that the loops move.
        learned: The learned coefficients, lr last.
        traced: Whether lr is learned from its trace.
        library: What `build.load` gave.
        state_dtype: The dtype of slots that it was built for.
    """

    name = "cpu"

    def __init__(
        self,
        rule: Rule,
        form: Rule,
        learned: tuple[str, ...],
        traced: bool,
        library: ctypes.CDLL,
        state_dtype: torch.dtype,
    ) -> None:
        assert library.row_bytes() == ctypes.sizeof(Row)
        assert library.job_bytes() == JOB * WORD
        self._library, self._rule, self._state_dtype = library, rule, state_dtype
        self._learned, self._traced = learned, traced
        self._slots = [slot.name for slot in form.slots if not slot.scalar]
        self._scalars = [slot.name for slot in form.slots if slot.scalar]
        memory = Memory(last_update=len(learned) > traced, trace=traced)
        self._beside = [name for name in state_names(form, memory) if name not in form.slot_names()]
        self._states = States(self._new_row)

    def row(self, cell: Cell) -> Row | None:
        """The part of a row that the state decides; None for a tensor that the loops can't move.

        They move plain, dense, fp32 tensors in CPU memory whose gradient and state are such too.
        """
        known = cell.plain or (plain(cell.p) and plain(cell.g))
        return self._states.row(cell.state, cell.p.shape) if known else None

    def keep(self, cells: list[Cell], _: list[Row]) -> None:
        """Forgets the states of others, if there are many."""
        self._states.keep((cell.state for cell in cells), len(cells))

    def table(self, cells: list[Cell], prepared: list[Row]) -> Table:
        """`cells` as one job of one step; `prepared` is what `row` gave for each."""
        _, ps, gs, _, options, scopes, *_ = zip(*cells, strict=True)
        columns = Columns(prepared, ps, options, scopes)
        return Table(self._library, self._rule, self._learned, self._traced, columns).on(gs)

    def _fits(self, name: str, x: Tensor, shape: torch.Size) -> bool:
        if name in self._slots or name in ("gradient", "anchor"):
            dtype = torch.float32 if name == "anchor" else self._state_dtype
            return x.dtype is dtype and usable(x, shape)
        return usable_scalars(name, x, self._rule)

    def _new_row(self, state: dict[str, Tensor], shape: torch.Size) -> Row | None:
        names = (*self._beside, *self._slots, *self._scalars)
        if not all(name in state and self._fits(name, state[name], shape) for name in names):
            return None
        row = Row(size=shape.numel(), **{name: state[name].data_ptr() for name in self._beside})
        row.address = ctypes.addressof(row)
        for i, name in enumerate(self._slots):
            row.slots[i] = state[name].data_ptr()
        for i, name in enumerate(self._scalars):
            row.scalars[i] = state[name].data_ptr()
        return row


def usable(x: object, shape: tuple[int, ...]) -> bool:
    """Whether `x` is a dense tensor of this shape whose elements lie in CPU memory as they are."""
    if type(x) is not Tensor or not x.is_cpu or x.shape != shape:
        return False
    return x.is_contiguous() and not x.is_neg() and intact(x)


def usable_scalars(name: str, x: Tensor, rule: Rule) -> bool:
    """Whether `x` can be what a state has of this name beside its tensors with a number for each element."""
    return x.dtype is torch.float64 and usable(x, (1 + len(rule.coefficients),) if name == "applied" else ())
