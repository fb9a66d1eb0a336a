"""The CPU engine: a rule's loops over all tensors as one job. This file decides which tensors they may have."""

import ctypes
from operator import is_

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell
from mada_optim.kernels.table import CTensor, Table
from mada_optim.spec import Rule


class Kernel:
    """The loops for one form of a rule.

    Args:
        rule: The whole rule.
        form: What is left of it, with the slots that the loops move.
        learned: The learned coefficients.
        library: What `build.load` gave.
        state_dtype: The dtype of slots that it was built for.
    """

    def __init__(
        self, rule: Rule, form: Rule, learned: tuple[str, ...], library: ctypes.CDLL, state_dtype: torch.dtype
    ) -> None:
        assert library.tensor_bytes() == ctypes.sizeof(CTensor)
        self._library, self._learned, self._state_dtype = library, learned, state_dtype
        self._names, self._hyper = rule.coefficient_names(), tuple(rule.hyper_parameters)
        self._slots = [slot.name for slot in form.slots if not slot.scalar]
        self._scalars = [slot.name for slot in form.slots if slot.scalar]
        self._rows: dict[int, tuple[list[Tensor], CTensor | None]] = {}

    def row(self, cell: Cell) -> CTensor | None:
        """The part of a row that the state decides; None for a tensor that the loops can't move.

        They move plain, dense, fp32 tensors in CPU memory whose gradient and state are such too.
        """
        return self._state_row(cell.state) if _plain(cell.p) and _plain(cell.g) else None

    def table(self, cells: list[Cell], prepared: list[CTensor]) -> Table:
        """`cells` as one job of one step; `prepared` is what `row` gave for each."""
        options = {id(cell.options): cell.options for cell in cells}
        now = {key: torch.empty(1 + len(self._names), dtype=torch.float64, device="cpu") for key in options}
        addresses = {key: vector.data_ptr() for key, vector in now.items()}
        rows = (CTensor * len(cells))(*prepared)
        for row, cell in zip(rows, cells, strict=True):
            row.size, row.p, row.g, row.scope = cell.p.numel(), cell.p.data_ptr(), cell.g.data_ptr(), cell.scope
            row.now, row.weight_decay = addresses[id(cell.options)], cell.options["weight_decay"]
            for i, name in enumerate(self._hyper):
                row.hyper[i] = cell.options[name]
        vectors = [(options[key], vector) for key, vector in now.items()]
        return Table(self._library, self._learned, self._names, rows, cells, vectors)

    def _state_row(self, state: dict[str, Tensor]) -> CTensor | None:
        """Made once per state, whose tensors are held: none can be mistaken for a later one at its address."""
        held, row = self._rows.get(id(state), ([], None))
        if len(held) != len(state) or not all(map(is_, held, state.values())):
            row = self._new_row(state) if all(map(self._fits, state, state.values())) else None
            self._rows[id(state)] = (list(state.values()), row)
        return row

    def _fits(self, name: str, x: Tensor) -> bool:
        per_element = name in self._slots or name == "gradient"
        return x.dtype == (self._state_dtype if per_element else torch.float64) and x.is_contiguous() and x.is_cpu

    def _new_row(self, state: dict[str, Tensor]) -> CTensor:
        row = CTensor(**{name: state[name].data_ptr() for name in ("step", "gradient", "applied") if name in state})
        for i, name in enumerate(self._slots):
            row.slots[i] = state[name].data_ptr()
        for i, name in enumerate(self._scalars):
            row.scalars[i] = state[name].data_ptr()
        return row


def _plain(x: Tensor) -> bool:
    own = type(x) is Tensor or type(x) is torch.nn.Parameter  # a subclass may keep its numbers elsewhere
    return own and x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()
