"""What a group of parameters sets, as one vector for the loops and programs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mada_optim.engine.eager import Cell, learning_rate, scalar
from mada_optim.spec import Rule

CPU = torch.device("cpu")


class Numbers:
    """Learning rate, coefficients, weight decay, horizon and hyper-parameters of a group (or of a tensor with its own).

    Args:
        rule: The whole rule, whose order it keeps.
        options: The group.
    """

    def __init__(self, rule: Rule, options: Mapping[str, Any]) -> None:
        self._names, self._options = rule.coefficient_names(), options
        fixed = [options["weight_decay"], options["horizon"], *(options[name] for name in rule.hyper_parameters)]
        self.vector = torch.tensor([*([0.0] * (1 + len(self._names))), *fixed], dtype=torch.float64, device=CPU)

    def update(self) -> Tensor:
        """Takes learning rate and coefficients as they are now; returns the vector."""
        now = [learning_rate(self._options, CPU), *(scalar(self._options[name], CPU) for name in self._names)]
        self.vector[: len(now)] = torch.stack(now)
        return self.vector


def numbers_of(rule: Rule, cells: list[Cell]) -> dict[int, Numbers]:
    """One for each group (or tensor) that the cells are of, by the identity of their options."""
    return {key: Numbers(rule, options) for key, options in {id(cell.options): cell.options for cell in cells}.items()}
