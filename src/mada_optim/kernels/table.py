"""The table of tensors that the loops are given, and the two calls into them."""

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell, largest_gradient, learning_rate, scalar
from mada_optim.spec import LR

MAX_SLOTS, MAX_SCALARS, MAX_HYPER = 12, 8, 12  # loops.cpp has them too


class CTensor(ctypes.Structure):
    """`Tensor` in loops.cpp, field by field."""

    _fields_ = (
        ("size", ctypes.c_int64),
        ("scope", ctypes.c_int64),
        ("p", ctypes.c_void_p),
        ("g", ctypes.c_void_p),
        ("slots", ctypes.c_void_p * MAX_SLOTS),
        ("scalars", ctypes.c_void_p * MAX_SCALARS),
        ("step", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("applied", ctypes.c_void_p),
        ("now", ctypes.c_void_p),
        ("weight_decay", ctypes.c_double),
        ("hyper", ctypes.c_double * MAX_HYPER),
    )


class Table:
    """Tensors of one step, handed to the loops. Holds what its rows point to.

    Args:
        library: The compiled loops.
        learned: The learned coefficients.
        names: The rule's coefficients.
        rows: One per tensor.
        cells: The tensors.
        vectors: The options of each group (or tensor, where each has its own), with the vector that `now` of its rows
            points to.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        learned: tuple[str, ...],
        names: tuple[str, ...],
        rows: ctypes.Array[CTensor],
        cells: list[Cell],
        vectors: list[tuple[Mapping[str, Any], Tensor]],
    ) -> None:
        self._library, self._learned, self._names, self._cells, self._vectors = library, learned, names, cells, vectors
        self._call = (rows, ctypes.c_int64(len(rows)), torch.get_num_threads())

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned) in fp64."""
        of_lr = LR.name in self._learned
        columns = len(self._learned) + (not of_lr)
        out = torch.empty(scopes * columns + 1, dtype=torch.float64, device="cpu")
        limit, rows = ctypes.c_double(largest_gradient(torch.float32)), ctypes.c_int64(scopes)
        self._library.hypergradients(*self._call, limit, of_lr, rows, ctypes.c_void_p(out.data_ptr()))
        return out[-1] == 0, out[:-1].reshape(scopes, columns)[:, : len(self._learned)]

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""
        cpu = torch.device("cpu")
        for options, vector in self._vectors:
            now = [learning_rate(options, cpu), *(scalar(options[name], cpu) for name in self._names)]
            torch.stack(now, out=vector)
        self._library.advance(*self._call, ctypes.c_void_p(where.data_ptr()))
        # as every in-place operation of torch does
        torch.autograd.graph.increment_version([cell.p for cell in self._cells])
