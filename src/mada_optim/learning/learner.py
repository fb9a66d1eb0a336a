"""The protocol of learners: a learner moves coefficients along their hypergradients.

A learner is a frozen dataclass; its fields are its options. It is a pure function, as in optax: its methods take the
coefficients and its memory and return new ones. The optimizer stores both.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_optim.learning.options import NONE, Bounds, Decay, PerCoefficient, Scope, Start, Stop

#: A learner's memory by name: tensors whose first dimension is the rows, or a `CoefficientOptimizer`.
Memory = dict[str, Any]


class CoefficientOptimizer(NamedTuple):
    """An optimizer inside a learner, and its parameters: a tensor (rows,) for each coefficient."""

    optimizer: Optimizer
    leaves: list[Tensor]


@dataclass(frozen=True)
class StepInfo:
    """A learner's information on a step, beside the coefficients and their hypergradients.

    Attributes:
        names: Names of the learner's coefficients, in the order of the columns.
        low: Lower ends of their intervals, (names,).
        high: Upper ends of their intervals, (names,).
        rates: The hyper learning rates that the rule declares for them.
        steps: Number of steps applied before this one, (rows,).
        counts: Whether the row has a gradient in this step and finite hypergradients, bool (rows,). In other rows, the
            optimizer leaves coefficients and memory unchanged.
        moves: `counts`, and the step is between `start` and `stop`, bool (rows,). In other rows, the optimizer leaves
            the coefficients unchanged.
        lr_floor: ln of the lr computed from the matrix shapes over the lr that is set, at most 0.
        scheduled_lr: Returns the lr that is set or scheduled, (rows,); zeros in `init`.
        made: Cache of `each`.
    """

    names: tuple[str, ...]
    low: Tensor
    high: Tensor
    rates: tuple[float, ...]
    steps: Tensor
    counts: Tensor
    moves: Tensor
    lr_floor: float
    scheduled_lr: Callable[[], Tensor]
    made: dict[Any, Tensor | float] = field(default_factory=dict)

    def each(self, given: PerCoefficient, usual: float | tuple[float, ...]) -> Tensor | float:
        """An option as a number for all coefficients, or a tensor (names,).

        Args:
            given: The learner's option: a number, or numbers by the names of coefficients.
            usual: The value of coefficients that `given` doesn't name: one for all, or one for each.
        """
        if not isinstance(given, Mapping):
            return given
        key = (id(given), usual)
        if key not in self.made:
            of_each = (usual,) * len(self.names) if isinstance(usual, float) else usual
            numbers = tuple(given.get(name, x) for name, x in zip(self.names, of_each, strict=True))
            alike = len(set(numbers)) == 1
            self.made[key] = numbers[0] if alike else vector(numbers, self.low.dtype, self.low.device)
        return self.made[key]


class Learner(abc.ABC):
    """Base class of learners, which move coefficients along their hypergradients.

    A subclass is a frozen dataclass with fields for its options. Matrices have a row for each scope and a column for
    each coefficient.

    Attributes:
        names: Names of coefficients of the rule, "lr", or "all" for all of the rule's.
        scope: The parameters that share a coefficient: "global" (all, as in the paper), "group" or "tensor".
        start: Number of applied steps before the first hyper-step.
        stop: Number of applied steps after which the coefficients stay, > start; None for no end.
        bounds: (low, high) by name, instead of the rule's intervals; for lr, of the factor on the lr that is set.
        horizon: Decay of the trace that lr is learned from, in [0, 1); 0 is the hypergradient of one step.
    """

    names: str | tuple[str, ...]
    scope: Scope = "global"
    start: Start = 0
    stop: Stop = None
    bounds: Bounds = NONE
    horizon: Decay = 0.0
    #: Whether `step` may return NaN, for coefficients that are to stay.
    may_give_nan: ClassVar[bool] = True

    def init(self, q: Tensor, info: StepInfo) -> Memory:
        """Returns the memory of new rows; none by default.

        Args:
            q: Their coefficients, (rows, names).
            info: As in `step`.
        """
        return {}

    @abc.abstractmethod
    def step(self, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
        """Returns the coefficients after one hyper-step, and the new memory.

        Args:
            q: The coefficients, (rows, names). That of lr is ln of the factor on the lr that is set.
            h: Their hypergradients, (rows, names).
            memory: The memory that `init` or the last step returned.
            info: Names, intervals, counts of steps and the scheduled lr.

        Returns:
            The new coefficients, which the optimizer projects on their intervals; where one is NaN, the old one stays.
            And the new memory, with the same keys, shapes and dtypes.
        """


@functools.lru_cache(maxsize=256)
def vector(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as a tensor that nobody changes; cached, as each copy to a device would make the host wait."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def clipped(h: Tensor, limit: float) -> Tensor:
    """`h` with each element clipped to [-limit, limit], by the formula of `torch.nn.utils.clip_grad_norm_`."""
    return h * torch.clamp(limit / (h.abs() + 1e-6), max=1.0)
