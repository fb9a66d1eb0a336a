"""The CPU engine: a rule's loops over all tensors as one job. This file decides which tensors they may have."""

import ctypes

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell
from mada_optim.kernels.states import States
from mada_optim.kernels.table import JOB, WORD, Columns, Row, Table
from mada_optim.spec import Rule


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
        self._states = States(self._new_row)

    def row(self, cell: Cell) -> Row | None:
        """The part of a row that the state decides; None for a tensor that the loops can't move.

        They move plain, dense, fp32 tensors in CPU memory whose gradient and state are such too.
        """
        return self._states.row(cell.state, cell.p.numel()) if plain(cell.p) and plain(cell.g) else None

    def keep(self, cells: list[Cell], _: list[Row]) -> None:
        """Forgets the states of others, if there are many."""
        self._states.keep((cell.state for cell in cells), len(cells))

    def table(self, cells: list[Cell], prepared: list[Row]) -> Table:
        """`cells` as one job of one step; `prepared` is what `row` gave for each."""
        _, ps, gs, _, options, scopes, _ = zip(*cells, strict=True)
        columns = Columns(prepared, ps, options, scopes)
        return Table(self._library, self._rule, self._learned, self._traced, columns).on(gs)

    def _fits(self, name: str, x: Tensor, size: int) -> bool:
        narrow = name in self._slots or name == "gradient"
        dtype = self._state_dtype if narrow else torch.float32 if name == "anchor" else torch.float64
        numel = size if narrow or name == "anchor" else x.numel()
        return x.dtype is dtype and x.numel() == numel and x.is_contiguous() and x.is_cpu

    def _new_row(self, state: dict[str, Tensor], size: int) -> Row | None:
        if not all(self._fits(name, x, size) for name, x in state.items()):
            return None
        beside = [name for name in ("step", "gradient", "applied", "anchor") if name in state]
        row = Row(size=size, **{name: state[name].data_ptr() for name in beside})
        row.address = ctypes.addressof(row)
        for i, name in enumerate(self._slots):
            row.slots[i] = state[name].data_ptr()
        for i, name in enumerate(self._scalars):
            row.scalars[i] = state[name].data_ptr()
        return row


def plain(x: Tensor) -> bool:
    """Whether `x` is a dense fp32 tensor in CPU memory, and no subclass, which may keep its numbers elsewhere."""
    own = type(x) is Tensor or type(x) is torch.nn.Parameter
    return own and x.dtype is torch.float32 and x.is_cpu and x.is_contiguous()
