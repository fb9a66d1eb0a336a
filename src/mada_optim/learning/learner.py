"""What a learner is: it moves coefficients along their hypergradients, and says what it remembers between steps.

A learner is a frozen dataclass: its fields are its numbers, and nothing in it changes. What changes is given to it and
returned by it, as in optax: the coefficients, and its memory, which the optimizer stores with them.
"""

import abc
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_optim.checks import NON_NEGATIVE, member, number
from mada_optim.rule import Interval

#: By name: a tensor whose first dimension is the rows, or a `CoefficientOptimizer`.
Memory = dict[str, Any]
PerCoefficient = float | Mapping[str, float]
Bounds = Mapping[str, tuple[float, float]]


class FrozenDict(Mapping[str, Any]):
    """A dict that nobody can change, so that what has it can be frozen, compared, hashed and copied."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._items = dict(given)

    def __getitem__(self, key: str) -> Any:
        """As of a dict."""
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        """As of a dict."""
        return iter(self._items)

    def __len__(self) -> int:
        """As of a dict."""
        return len(self._items)

    def __hash__(self) -> int:
        """By its items."""
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        """That of a dict."""
        return repr(self._items)


#: A dict without entries, as a default.
NONE = FrozenDict({})


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
    scope: str = "global"
    start: int = 0
    stop: int | None = None
    bounds: Bounds = NONE
    horizon: float = 0.0
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


def names_given(owner: str, names: Iterable[object]) -> str | tuple[str, ...]:
    """The names that a learner was given, or "all".

    Raises:
        ValueError: There is none, or one is no text.
    """
    given = tuple(names)
    if not given or not all(isinstance(name, str) for name in given):
        raise ValueError(f'{owner}{given!r}: expected names of coefficients, or "all"; {owner}("beta1", "beta2"), say')
    return "all" if given == ("all",) else tuple(str(name) for name in given)


def number_of_each(what: str, given: object, allowed: Interval) -> PerCoefficient:
    """A number for all coefficients, or a dict by name, which is copied.

    Raises:
        ValueError: A number is not `allowed`.
    """
    remedy = "pass one for all, or a dict by coefficient"
    if not isinstance(given, Mapping):
        return own_number(what, given, allowed, remedy)
    return FrozenDict({name: own_number(f"{what} of {name}", x, allowed, remedy) for name, x in given.items()})


def own_number(what: str, x: object, allowed: Interval, remedy: str) -> float:
    """`x` as a float that is `allowed`. Raises ValueError if it is none; True and False are none."""
    if isinstance(x, bool):
        raise ValueError(f"{what}={x!r}: expected a number in {allowed}; {remedy}")
    return number(what, x, allowed, remedy)


def bounds_given(given: object) -> Bounds:
    """The bounds by name, as a copy; the optimizer compares the ends with its rule.

    Raises:
        ValueError: It is no mapping.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"bounds={given!r}: expected a dict by coefficient; bounds={{'beta1': (0.5, 0.99)}}, say")
    return FrozenDict({name: tuple(ends) if isinstance(ends, list) else ends for name, ends in given.items()})


def only_of(names: Iterable[str], what: str, given: object) -> None:
    """Refuses a number by name for a coefficient that isn't learned by this learner.

    Raises:
        ValueError: There is one.
    """
    for name in given if isinstance(given, Mapping) else ():
        member(f"{what} key", name, names, "only coefficients that this learner learns have one: name it there too")


def whole_number(what: str, x: object, remedy: str) -> int:
    """`x` as a number of steps.

    Raises:
        ValueError: It is none, or negative.
    """
    value = own_number(what, x, NON_NEGATIVE, remedy)
    if value != int(value):
        raise ValueError(f"{what}={x!r}: expected a whole number; {remedy}")
    return int(value)


def limit_given(what: str, x: object, remedy: str) -> float:
    """A number >= 0, which may be infinite.

    Raises:
        ValueError: It is negative, or no number.
    """
    return math.inf if x == math.inf else own_number(what, x, NON_NEGATIVE, f"{remedy}, math.inf is no limit")


def clip_given(x: object) -> float:
    """The largest size of a hypergradient. Raises ValueError if it is negative, or no number."""
    return limit_given("clip", x, "the paper's is 10")


def clipped(h: Tensor, limit: float) -> Tensor:
    """Each hypergradient by itself, as `torch.nn.utils.clip_grad_norm_` clips the norm of a gradient."""
    return h * torch.clamp(limit / (h.abs() + 1e-6), max=1.0)
