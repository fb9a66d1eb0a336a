"""The table of tensors that the loops are given, and the two calls into them."""

import ctypes
from array import array

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell, largest_gradient
from mada_optim.kernels.numbers import CPU, Numbers
from mada_optim.spec import LR

MAX_SLOTS, MAX_SCALARS = 12, 8  # loops.cpp has them too
JOB = 5  # numbers of `Job` there: addresses of row, parameter, gradient and numbers, and the scope
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
        ("trace", ctypes.c_void_p),
    )


class Table:
    """Tensors of one step, handed to the loops. Holds what is pointed to.

    Args:
        library: The compiled loops.
        learned: The learned coefficients, lr last.
        traced: Whether lr is learned from its trace.
        rows: One per tensor.
        cells: The tensors.
        numbers: What the groups set.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        learned: tuple[str, ...],
        traced: bool,
        rows: list[Row],
        cells: list[Cell],
        numbers: Numbers,
    ) -> None:
        self._library, self._rows, self._cells, self._numbers = library, rows, cells, numbers
        self._learned, self._traced = learned, traced
        each = zip(rows, cells, numbers.addresses(), strict=True)
        jobs = ((row.address, x.p.data_ptr(), x.g.data_ptr(), now, x.scope) for row, x, now in each)
        self._jobs = array("q", [number for job in jobs for number in job])
        pointer = ctypes.c_void_p(self._jobs.buffer_info()[0])
        self._call = (pointer, ctypes.c_int64(len(cells)), torch.get_num_threads())

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned) in fp64."""
        of_lr = LR.name in self._learned  # its column is the last, of its trace or of one step
        columns = len(self._learned) + (not of_lr)
        out = torch.empty(scopes * columns + 1, dtype=torch.float64, device=CPU)
        rows = ctypes.c_int64(scopes)
        self._library.hypergradients(
            *self._call, LIMIT, of_lr and not self._traced, rows, ctypes.c_void_p(out.data_ptr())
        )
        return out[-1] == 0, out[:-1].reshape(scopes, columns)[:, : len(self._learned)]

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""
        self._numbers.update()
        self._library.advance(*self._call, ctypes.c_void_p(where.data_ptr()))
        # as every in-place operation of torch does
        torch.autograd.graph.increment_version([cell.p for cell in self._cells])
