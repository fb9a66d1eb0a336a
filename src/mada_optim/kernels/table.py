"""The table of tensors that the loops of family.cpp are given, and the two calls into them."""

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell, scalar

COEFFICIENTS = ("beta1", "beta2", "beta3", "rho", "c", "gamma")
ELEMENTWISE = ("m", "v", "vbar", "n", "g_prev", "l")
SCALARS = ("step", "w1", "w2", "w3", "wbar2")


class CTensor(ctypes.Structure):
    """`Tensor` in family.cpp, field by field."""

    _fields_ = (
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("p", "g", *ELEMENTWISE, *SCALARS, "gradient", "applied", "now")),
        *((name, ctypes.c_double) for name in ("weight_decay", "eps")),
    )


class CRule(ctypes.Structure):
    """`Rule` in family.cpp, field by field."""

    _fields_ = (
        ("coefficients", ctypes.c_int64),
        ("corner", ctypes.c_double * len(COEFFICIENTS)),
        ("lion_beta1", ctypes.c_double),
        ("lion_beta2", ctypes.c_double),
        ("kappa", ctypes.c_double),
    )


class Table:
    """Tensors of one step, handed to the loops. Holds what its rows point to.

    Args:
        library: The compiled loops.
        flags: The terms of the rule.
        rule: The rest of it.
        rows: One per tensor.
        cells: The tensors.
        vectors: Each group, with the vector that its rows' `now` points to.
        names: The rule's coefficients.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        flags: int,
        rule: CRule,
        rows: ctypes.Array[CTensor],
        cells: list[Cell],
        vectors: list[tuple[Mapping[str, Any], Tensor]],
        names: tuple[str, ...],
    ) -> None:
        self._library, self._cells, self._vectors, self._names = library, cells, vectors, names
        self._call = (flags, rows, ctypes.c_int64(len(rows)), ctypes.byref(rule), torch.get_num_threads())

    def hypergradients(self) -> tuple[Tensor, Tensor]:
        """Whether every gradient is finite (0-d boolean), and -lr < g, du/dq > for all six coefficients (1-d, fp64).

        Where nothing is learned, the second is zero.
        """
        sums = torch.empty(len(COEFFICIENTS) + 1, dtype=torch.float64)
        failed = self._library.hypergradients(*self._call, ctypes.c_void_p(sums.data_ptr()))
        assert not failed
        return sums[-1] == 0, sums[:-1]

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""
        cpu = torch.device("cpu")
        for options, vector in self._vectors:
            torch.stack([scalar(options[name], cpu) for name in ("lr", *self._names)], out=vector)
        failed = self._library.advance(*self._call, ctypes.c_void_p(where.data_ptr()))
        assert not failed
        # as every in-place operation of torch does
        torch.autograd.graph.increment_version([cell.p for cell in self._cells])
