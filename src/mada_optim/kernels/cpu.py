"""The CPU engine: the rules of MADA's family through one C++ loop per phase, all tensors as one job.

`family.cpp` has the loops and their derivation. This file decides which tensors they may have.
"""

import ctypes
from collections.abc import Mapping
from operator import is_

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell
from mada_optim.kernels.table import COEFFICIENTS, OPTIONS, CRule, CTensor, Table
from mada_optim.spec import Rule

MEAN, YOGI, DIFFERENCE, LION = 1, 2, 4, 8  # family.cpp, Term

#: Rules of the family: the terms they have, and where the coefficients that they lack stand.
FAMILY: dict[str, tuple[int, dict[str, float]]] = {
    "adam": (0, {}),
    "avgrad": (MEAN, {"rho": 0.0}),
    "yogi": (YOGI, {"c": 0.0}),
    "adan": (DIFFERENCE, {}),
    "mada": (MEAN | YOGI | DIFFERENCE | LION, {}),
}
#: Where each term falls away, if the coefficient is fixed there.
OFF = {("rho", 1.0): MEAN, ("c", 1.0): YOGI, ("beta3", 0.0): DIFFERENCE, ("gamma", 1.0): LION}
SLOTS = {0: ("m", "v"), MEAN: ("vbar",), DIFFERENCE: ("n", "g_prev"), LION: ("l",)}
ADAM = {"beta1": 0.0, "beta2": 0.0, "beta3": 0.0, "rho": 1.0, "c": 1.0, "gamma": 1.0}


def terms(rule: Rule, form: Rule, fixed: Mapping[str, float]) -> int | None:
    """The terms of `rule` that are left in `form`, at `fixed` coefficients; None where no loop is made for it."""
    flags, _ = FAMILY[rule.name]
    for corner in fixed.items():
        flags &= ~OFF.get(corner, 0)
    slots = {name for flag, names in SLOTS.items() if flags & flag == flag for name in names}
    return flags if slots == {slot.name for slot in form.slots if not slot.scalar} else None


class Kernel:
    """The loops for one form of a rule.

    Args:
        rule: A rule of the family, as it stands in the registry.
        flags: The terms that are left of it.
        library: What `build.load` gave for them.
    """

    def __init__(self, rule: Rule, flags: int, library: ctypes.CDLL) -> None:
        assert library.terms() == flags
        assert (library.tensor_bytes(), library.rule_bytes()) == (ctypes.sizeof(CTensor), ctypes.sizeof(CRule))
        self._library, self._names = library, rule.coefficient_names()
        self._doubles = {slot.name for slot in rule.slots if slot.scalar} | {"step", "applied"}
        _, corner = FAMILY[rule.name]
        values = {**ADAM, **corner}
        self._rule = CRule(len(self._names), tuple(values[q] for q in COEFFICIENTS))
        self._rows: dict[int, tuple[list[Tensor], CTensor | None]] = {}

    def row(self, cell: Cell) -> CTensor | None:
        """The part of a row that the state decides; None for a tensor that the loops can't move.

        They move plain, dense, fp32 tensors in CPU memory whose gradient and state are such too.
        """
        return self._state_row(cell.state) if _plain(cell.p) and _plain(cell.g) else None

    def table(self, cells: list[Cell], prepared: list[CTensor]) -> Table:
        """`cells` as one job of one step; `prepared` is what `row` gave for each."""
        options = {id(cell.options): cell.options for cell in cells}
        now = {key: torch.empty(1 + len(self._names), dtype=torch.float64) for key in options}
        addresses = {key: vector.data_ptr() for key, vector in now.items()}
        rows = (CTensor * len(cells))(*prepared)
        for row, cell in zip(rows, cells, strict=True):
            row.size, row.p, row.g, row.scope = cell.p.numel(), cell.p.data_ptr(), cell.g.data_ptr(), cell.scope
            row.now = addresses[id(cell.options)]
            for name in OPTIONS:
                setattr(row, name, cell.options.get(name, 0.0))
        vectors = [(options[key], vector) for key, vector in now.items()]
        return Table(self._library, self._rule, rows, cells, vectors, self._names)

    def _state_row(self, state: dict[str, Tensor]) -> CTensor | None:
        """Made once per state, whose tensors are held: none can be mistaken for a later one at its address."""
        held, row = self._rows.get(id(state), ([], None))
        if len(held) != len(state) or not all(map(is_, held, state.values())):
            wanted = {name: torch.float64 if name in self._doubles else torch.float32 for name in state}
            fits = all(x.dtype == wanted[name] and x.is_contiguous() and x.is_cpu for name, x in state.items())
            row = CTensor(**{name: x.data_ptr() for name, x in state.items()}) if fits else None
            self._rows[id(state)] = (list(state.values()), row)
        return row


def _plain(x: Tensor) -> bool:
    own = type(x) is Tensor or type(x) is torch.nn.Parameter  # a subclass may keep its numbers elsewhere
    return own and x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()
