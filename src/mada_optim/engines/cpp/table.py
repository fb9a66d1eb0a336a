"""The table of tensors that the loops are given, and the two calls into them."""

import ctypes
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim.engines.cpp.tensors import WORD, reader, sizes_of_plain
from mada_optim.engines.eager import largest_gradient
from mada_optim.engines.group_numbers import CPU, Numbers
from mada_optim.rule import LR, Rule

MAX_SLOTS, MAX_SCALARS = 12, 8  # loops.cpp has them too
JOB = 5  # numbers of `Job` there: addresses of row, parameter, gradient and numbers, and the scope
PARAMETER, GRADIENT = 1, 2  # their places in it
LIMIT = ctypes.c_double(largest_gradient(torch.float32))


class Row(ctypes.Structure):
    """`Row` in loops.cpp, field by field."""

    address: int
    _fields_ = (
        ("size", ctypes.c_int64),
        ("slots", ctypes.c_void_p * MAX_SLOTS),
        ("scalars", ctypes.c_void_p * MAX_SCALARS),
        ("step", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("applied", ctypes.c_void_p),
        ("anchor", ctypes.c_void_p),
    )


class Columns(NamedTuple):
    """The tensors of a step.

    Attributes:
        rows: What their state decides.
        ps: The parameters.
        options: The group of each.
        scopes: The row of each one's learned coefficients.
    """

    rows: Sequence[Row]
    ps: Sequence[Tensor]
    options: Sequence[Mapping[str, Any]]
    scopes: Sequence[int]


class Table:
    """Tensors, and steps of them by the loops. Holds what is pointed to, but for gradients and the states' tensors.

    Args:
        library: The compiled loops.
        rule: The whole rule.
        learned: The learned coefficients, lr last.
        traced: Whether lr is learned from its trace.
        columns: The tensors.
    """

    def __init__(
        self, library: ctypes.CDLL, rule: Rule, learned: tuple[str, ...], traced: bool, columns: Columns
    ) -> None:
        self._library, self.columns, self._numbers = library, columns, Numbers(rule, columns.options)
        self._learned, self._traced = learned, traced
        self._jobs = array("q", bytes(JOB * WORD * len(columns.ps)))
        self._set(0, [row.address for row in columns.rows])
        self._set(3, self._numbers.addresses())
        self._set(4, columns.scopes)
        self._pointer, self._count = self._jobs.buffer_info()[0], len(columns.ps)

    def _set(self, place: int, numbers: Iterable[int]) -> None:
        """A number of each `Job`, by its place there."""
        self._jobs[place::JOB] = array("q", numbers)

    def on(self, gs: Sequence[Tensor]) -> "Table":
        """The same with the gradients of a step, and with parameters where they are now."""
        self._set(PARAMETER, map(Tensor.data_ptr, self.columns.ps))
        self._set(GRADIENT, map(Tensor.data_ptr, gs))
        return self._ready()

    def follow(self, gs: list[Any], sizes: "array[int]") -> bool:
        """The same as `on` where the loops take `gs` and the parameters as they are now; else says that they don't.

        Args:
            gs: What the parameters have for gradients.
            sizes: Of the parameters as they were, and of `gs` as they must be: `sizes_of` gives them.
        """
        ps, read = list(self.columns.ps), reader()
        if read is None:
            if not (sizes_of_plain(ps) == sizes == sizes_of_plain(gs)):
                return False
            self.on(gs)
            return True
        places = (self._pointer + WORD * place for place in (PARAMETER, GRADIENT))
        fit = all(read.plain(xs, sizes, to, JOB) for xs, to in zip((ps, gs), places, strict=True))
        if fit:
            self._ready()
        return fit

    def _ready(self) -> "Table":
        """The same, with what each call is given."""
        self._call = (ctypes.c_void_p(self._pointer), ctypes.c_int64(self._count), torch.get_num_threads())
        return self

    def usable(self) -> Tensor:
        """Whether every gradient is usable, 0-d."""
        usable = torch.empty((), dtype=torch.bool, device=CPU)
        self._library.check(*self._call, LIMIT, ctypes.c_void_p(usable.data_ptr()))
        return usable

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned) in fp64."""
        columns, of_lr = len(self._learned), LR.name in self._learned and not self._traced
        h = torch.empty(scopes, columns, dtype=torch.float64, device=CPU)
        usable = torch.empty((), dtype=torch.bool, device=CPU)
        out = (ctypes.c_void_p(h.data_ptr()), ctypes.c_void_p(usable.data_ptr()))
        self._numbers.set_up()
        self._library.hypergradients(*self._call, LIMIT, of_lr, ctypes.c_int64(scopes), columns, *out)
        return usable, h

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""
        self._numbers.update()
        self._library.advance(*self._call, ctypes.c_void_p(where.data_ptr()))
        torch.autograd.graph.increment_version(self.columns.ps)  # as every in-place operation of torch does
