"""The nouns of an update rule: what it may learn, what it remembers, and the function that says how it moves.

A rule is ONE pure function, `update(c, g, s, t) -> (u, s')`:

    c   coefficients by name, 0-d tensors, and hyper-parameters by name, floats
    g   gradient of one parameter, any shape
    s   slots by name: the state kept for that parameter, at step t-1
    t   number of this step, 1 at the first, a 0-d tensor
    u   the update, shape of g: the parameter moves by -lr * u
    s'  the slots at step t, same names and shapes

Weight decay and learning rate stay outside. Everything else (the engine, the hypergradient, the state dict) follows
from the function and the lists declared beside it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Coefficients = Mapping[str, Tensor | float]
Slots = Mapping[str, Tensor]
Update = Callable[[Coefficients, Tensor, Slots, Tensor], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Interval:
    """A range of real numbers, closed at `low`, and at `high` unless `open_high`."""

    low: float
    high: float
    open_high: bool = False

    def __contains__(self, x: float) -> bool:
        return math.isfinite(x) and self.low <= x and (x < self.high if self.open_high else x <= self.high)

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


UNIT = Interval(0.0, 1.0)
DECAY = Interval(0.0, 1.0, open_high=True)  # at 1 an average would never take anything in
REAL = Interval(-math.inf, math.inf)


@dataclass(frozen=True)
class Coefficient:
    """A scalar of the rule that may be learned.

    Attributes:
        name: Its name as a keyword, in the state dict and in records.
        symbol: Its letter in LaTeX.
        interval: Where learning may take it: each hyper-step ends with the projection on this interval.
        default: Its value where the user names none.
        domain: Where the rule is defined: a value outside is refused, learned or not.
        hyper_lr: The learning rate of its hyper-step where the user names none; the paper's for a weight of the past is
            5e-4, and 1e-1 for the rest.
        meaning: Its effect on the update in one sentence, for generated pages and for help texts.
    """

    name: str
    symbol: str
    interval: Interval
    default: float
    domain: Interval = UNIT
    hyper_lr: float = 1e-1
    meaning: str = ""


@dataclass(frozen=True)
class Slot:
    """A tensor that the rule remembers for each parameter.

    Attributes:
        name: Its key in the optimizer's state.
        symbol: Its letter in LaTeX.
        init: Its value at t = 0, everywhere.
        scalar: One number per parameter tensor (0-d, double precision) instead of one per element.
    """

    name: str
    symbol: str
    init: float = 0.0
    scalar: bool = False


#: The coefficient that every rule has, outside of its function. What is learned is the logarithm of a factor on the lr
#: that the user or a scheduler sets, so that no hyper-step can turn it negative (Baydin et al., ICLR 2018, learn lr).
LR = Coefficient(
    "lr",
    r"\ln(\alpha/\alpha_0)",
    Interval(-math.log(1e4), math.log(1e4)),
    0.0,
    REAL,
    hyper_lr=1e-2,
    meaning="Factor on the learning rate that is set or scheduled; its logarithm is learned.",
)


def option_key(name: str) -> str:
    """Where a parameter group keeps a coefficient: under its name; what is learned of lr beside `lr`."""
    return "log_lr" if name == LR.name else name


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule: its function, and what that function needs.

    Attributes:
        name: Key in the registry.
        update: The pure function described at the head of this module.
        coefficients: What may be learned, in a fixed order.
        slots: What is remembered, in a fixed order.
        hyper_parameters: Fixed numbers by name with their defaults, options of a parameter group like `eps`.
        pointwise: Whether each element of `u` and of the slots depends on that element alone. Only an engine that
            regroups elements may use it. A rule that isn't sees a parameter of more than two dimensions as the matrix,
            or the batch of matrices, that it is (`mada_optim.layouts`).
        matrix_weight: A coefficient that weighs what only hidden weight matrices have
            (`mada_optim.matrices.hidden_matrices`): on every other tensor it is fixed at 0, where the rule is
            pointwise.
    """

    name: str
    update: Update
    coefficients: tuple[Coefficient, ...]
    slots: tuple[Slot, ...]
    hyper_parameters: Mapping[str, float] = field(default_factory=dict)
    pointwise: bool = True
    matrix_weight: str | None = None

    def coefficient_names(self) -> tuple[str, ...]:
        """Names of the coefficients, in the rule's order."""
        return tuple(q.name for q in self.coefficients)

    def slot_names(self) -> tuple[str, ...]:
        """Names of the slots, in the rule's order."""
        return tuple(slot.name for slot in self.slots)
