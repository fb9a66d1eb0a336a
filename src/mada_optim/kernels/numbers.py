"""What the groups of parameters set, as rows of numbers for the loops and programs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell, learning_rate, scalar
from mada_optim.spec import Rule

CPU = torch.device("cpu")


class Numbers:
    """Learning rate, coefficients, weight decay, horizon and hyper-parameters of groups, a row for each.

    A tensor with coefficients of its own is a group of its own here.

    Args:
        rule: The whole rule, whose order it keeps.
        cells: The tensors.
    """

    def __init__(self, rule: Rule, cells: list[Cell]) -> None:
        ids = [id(cell.options) for cell in cells]
        groups = dict(zip(ids, cells, strict=True))
        place = {key: i for i, key in enumerate(groups)}
        #: The row of each tensor.
        self.rows = [place[key] for key in ids]
        self._names, self._groups = rule.coefficient_names(), [cell.options for cell in groups.values()]
        fixed, begin = ("weight_decay", "horizon", *rule.hyper_parameters), [0.0] * (1 + len(self._names))
        numbers = [[*begin, *(options[name] for name in fixed)] for options in self._groups]
        self.matrix = torch.tensor(numbers, dtype=torch.float64, device=CPU)

    def addresses(self) -> list[int]:
        """Where the row of each tensor is."""
        first, width = self.matrix.data_ptr(), self.matrix.stride(0) * self.matrix.element_size()
        return [first + row * width for row in self.rows]

    def update(self) -> Tensor:
        """Takes learning rates and coefficients as they are now; returns the matrix."""
        now = [x for options in self._groups for x in self._now(options)]
        self.matrix[:, : 1 + len(self._names)] = torch.stack(now).view(len(self._groups), -1)
        return self.matrix

    def _now(self, options: Mapping[str, Any]) -> list[Tensor]:
        return [learning_rate(options, CPU), *(scalar(options[name], CPU) for name in self._names)]
