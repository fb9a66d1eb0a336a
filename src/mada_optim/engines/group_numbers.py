"""What the groups of parameters set, as rows of numbers for the loops and programs."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mada_optim.engines.eager import learning_rate, scalar
from mada_optim.rule import LR, Rule, option_key

CPU = torch.device("cpu")
LOG_LR = option_key(LR.name)


class Numbers:
    """Learning rate, coefficients, weight decay, horizon and hyper-parameters of groups, a row for each.

    A tensor with coefficients of its own is a group of its own here. Operations of torch are avoided, each of which
    takes longer than all of this where its code isn't in the caches.

    Args:
        rule: The whole rule, whose order it keeps.
        options: The group of each tensor, or what is its own group.
    """

    def __init__(self, rule: Rule, options: Sequence[Mapping[str, Any]]) -> None:
        ids = list(map(id, options))
        groups = dict(zip(ids, options, strict=True))
        place = {key: i for i, key in enumerate(groups)}
        #: The row of each tensor.
        self.rows = [place[key] for key in ids]
        self._groups = list(groups.values())
        self._coefficients = rule.coefficient_names()
        self._settings = ("weight_decay", "horizon", *rule.hyper_parameters)
        self._width = 1 + len(self._coefficients) + len(self._settings)
        self._values = (ctypes.c_double * (len(self._groups) * self._width))()

    def addresses(self) -> list[int]:
        """Where the row of each tensor is."""
        first, width = ctypes.addressof(self._values), ctypes.sizeof(ctypes.c_double) * self._width
        return [first + row * width for row in self.rows]

    def set_up(self) -> None:
        """Takes what isn't learned as it is now: weight decay, horizon and hyper-parameters."""
        for i, group in enumerate(self._groups, start=1):
            self._values[i * self._width - len(self._settings) : i * self._width] = self._of(group, self._settings)

    def update(self) -> None:
        """Takes all of them as they are now."""
        self.set_up()
        for i, group in enumerate(self._groups):
            now: list[ctypes.c_double | float] = [lr_of(group), *self._of(group, self._coefficients)]
            self._values[i * self._width : i * self._width + len(now)] = now

    @staticmethod
    def _of(group: Mapping[str, Any], names: Sequence[str]) -> list[ctypes.c_double | float]:
        return [number(group[name]) for name in names]

    def matrix(self) -> Tensor:
        """The rows, which share their memory with it."""
        return torch.frombuffer(self._values, dtype=torch.float64).view(len(self._groups), -1)


def lr_of(group: Mapping[str, Any]) -> float:
    """The learning rate of a group, times the learned factor where there is one."""
    return number(group["lr"] if group.get(LOG_LR) is None else learning_rate(group, CPU))


def number(x: float | Tensor) -> float:
    """A number of a group, in double precision; of a tensor, what its memory holds."""
    if not isinstance(x, Tensor):
        return float(x)
    held = scalar(x, CPU).resolve_neg()
    return ctypes.c_double.from_address(held.data_ptr()).value
