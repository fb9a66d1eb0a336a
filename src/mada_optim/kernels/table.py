"""The table of tensors that the loops of family.cpp are given, and the two calls into them."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell, largest_gradient, learning_rate, scalar
from mada_optim.spec import LR

COEFFICIENTS = ("beta1", "beta2", "beta3", "rho", "c", "gamma")
HYPERGRADIENTS = (*COEFFICIENTS, LR.name)
ELEMENTWISE = ("m", "v", "vbar", "n", "g_prev", "l")
SCALARS = ("step", "w1", "w2", "w3", "wbar2")
OPTIONS = ("weight_decay", "eps", "lion_beta1", "lion_beta2", "kappa")


class CTensor(ctypes.Structure):
    """`Tensor` in family.cpp, field by field."""

    _fields_ = (
        ("size", ctypes.c_int64),
        ("scope", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("p", "g", *ELEMENTWISE, *SCALARS, "gradient", "applied", "now")),
        *((name, ctypes.c_double) for name in OPTIONS),
    )


class CRule(ctypes.Structure):
    """`Rule` in family.cpp, field by field."""

    _fields_ = (
        ("coefficients", ctypes.c_int64),
        ("corner", ctypes.c_double * len(COEFFICIENTS)),
    )


class Table:
    """Tensors of one step, handed to the loops. Holds what its rows point to.

    Args:
        library: The compiled loops.
        rule: The rule's numbers.
        rows: One per tensor.
        cells: The tensors.
        vectors: The options of each group (or tensor, where each has its own), with the vector that `now` of its rows
            points to.
        names: The rule's coefficients.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        rule: CRule,
        rows: ctypes.Array[CTensor],
        cells: list[Cell],
        vectors: list[tuple[Mapping[str, Any], Tensor]],
        names: tuple[str, ...],
    ) -> None:
        self._library, self._cells, self._vectors, self._names = library, cells, vectors, names
        self._call = (rows, ctypes.c_int64(len(rows)), ctypes.byref(rule), torch.get_num_threads())

    def hypergradients(self, learned: Sequence[str], scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned) in fp64."""
        columns = [HYPERGRADIENTS.index(name) for name in learned]
        sums = torch.empty(scopes * len(HYPERGRADIENTS) + 1, dtype=torch.float64)
        limit, rows = ctypes.c_double(largest_gradient(torch.float32)), ctypes.c_int64(scopes)
        self._library.hypergradients(*self._call, limit, LR.name in learned, rows, ctypes.c_void_p(sums.data_ptr()))
        return sums[-1] == 0, sums[:-1].reshape(scopes, len(HYPERGRADIENTS))[:, columns]

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""
        cpu = torch.device("cpu")
        for options, vector in self._vectors:
            now = [learning_rate(options, cpu), *(scalar(options[name], cpu) for name in self._names)]
            torch.stack(now, out=vector)
        self._library.advance(*self._call, ctypes.c_void_p(where.data_ptr()))
        # as every in-place operation of torch does
        torch.autograd.graph.increment_version([cell.p for cell in self._cells])
