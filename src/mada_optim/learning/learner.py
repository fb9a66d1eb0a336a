"""What a learner is: it moves coefficients along their hypergradients, and says what it remembers between steps.

A learner is a frozen dataclass: its fields are its numbers, and nothing in it changes. What changes is given to it and
returned by it, as in optax: the coefficients, and its memory, which the optimizer stores with them.
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

#: By name: a tensor whose first dimension is the rows, or a `CoefficientOptimizer`.
Memory = dict[str, Any]


class CoefficientOptimizer(NamedTuple):
    """An optimizer that works for a learner, and the tensors that it was made for, a (rows,) for each coefficient."""

    optimizer: Optimizer
    leaves: list[Tensor]


@dataclass(frozen=True)
class StepInfo:
    """What a learner may know about a step, beside the coefficients and their hypergradients.

    Attributes:
        names: The coefficients that it moves, a column each.
        low: Lower ends of their intervals, (names,).
        high: Upper ends.
        rates: The hyper learning rates that the rule declares for them.
        steps: How many steps have been applied before this one, (rows,).
        counts: Whether the step counts for a row, and its hypergradients are finite, (rows,): of other rows, the
            optimizer keeps coefficients and memory as they are.
        moves: Whether it is between `start` and `stop` too, (rows,): of other rows, the optimizer keeps coefficients.
        lr_floor: ln of the lr that the shapes of the matrices say over the one that is set, at most 0.
        scheduled_lr: Gives the lr that is set or scheduled, (rows,); zeros in `init`.
        made: What `each` has made before.
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
        """A number for each coefficient, (names,), or one for all: what is `given`, or what is usual."""
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
    """Moves the coefficients in `names` along their hypergradients.

    Matrices have a row for each scope and a column for each coefficient. Subclasses are frozen dataclasses.

    Attributes:
        names: What is learned: names of coefficients of the rule, "lr", or "all" for all of the rule's.
        scope: Over what a coefficient is one: "global" (all groups, as in the paper), "group" or "tensor".
        start: Number of applied steps before the first hyper-step.
        stop: Number of applied steps after which there is none; None for no end.
        bounds: (low, high) by name, in the place of the rule's intervals; for lr of its factor on the lr that is set.
        horizon: Decay of the trace that lr is learned from, in [0, 1); 0 is the hypergradient of one step.
    """

    names: str | tuple[str, ...]
    scope: Scope = "global"
    start: Start = 0
    stop: Stop = None
    bounds: Bounds = NONE
    horizon: Decay = 0.0
    #: Whether what `step` returns may be NaN, where the old coefficients then stay.
    may_give_nan: ClassVar[bool] = True

    def init(self, q: Tensor, info: StepInfo) -> Memory:
        """The memory of new rows, whose coefficients are `q` (rows, names); nothing by default."""
        return {}

    @abc.abstractmethod
    def step(self, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
        """Moves the coefficients once.

        Args:
            q: The coefficients, (rows, names). lr is ln of a factor on the lr that is set.
            h: Their hypergradients, (rows, names).
            memory: What `init` or the last step gave.
            info: What else there is to know.

        Returns:
            The new coefficients, which the optimizer projects on their intervals, and the new memory, with the same
            keys, shapes and dtypes. Where a coefficient is NaN, the old one stays.
        """


@functools.lru_cache(maxsize=256)
def vector(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as a tensor that nobody changes; made once, as a copy to a device would wait for it."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def clipped(h: Tensor, limit: float) -> Tensor:
    """Each hypergradient by itself, as `torch.nn.utils.clip_grad_norm_` clips the norm of a gradient."""
    return h * torch.clamp(limit / (h.abs() + 1e-6), max=1.0)
