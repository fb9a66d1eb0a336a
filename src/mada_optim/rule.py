"""Update rules: a pure function, and the declarations of its coefficients and slots.

A rule is one function, `update(c, g, s, t) -> (u, s')`:

    c   coefficients by name, 0-d tensors, and hyper-parameters by name, floats
    g   gradient of one parameter, any shape
    s   slots by name: the state of that parameter at step t-1
    t   number of this step, 1 at the first, a 0-d tensor
    u   the update, in the shape of g: the parameter moves by -lr * u
    s'  the slots at step t, same names and shapes

Weight decay and learning rate are outside the rule. Engines, hypergradients, state dicts, option names and
documentation are derived from the function and its declarations.
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
DECAY = Interval(0.0, 1.0, open_high=True)  # at 1 an average would never change
REAL = Interval(-math.inf, math.inf)


@dataclass(frozen=True)
class Coefficient:
    """A scalar of a rule that may be learned.

    Attributes:
        name: Its name as a keyword, as an option of groups, in state dicts and in records.
        symbol: Its letter in LaTeX.
        interval: Each hyper-step ends with the projection on this interval.
        default: Its value if the user gives none.
        domain: The values for which the rule is defined; others are refused, learned or not.
        hyper_lr: Its hyper learning rate if the user gives none. The paper's is 5e-4 for beta1 and beta2, 1e-1 for the
            others.
        meaning: Its effect on the update in one sentence, for documentation and help texts.
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
    """A tensor that a rule keeps for each parameter.

    Attributes:
        name: Its key in the optimizer's state.
        symbol: Its letter in LaTeX.
        init: Initial value of its elements, at t = 0.
        scalar: Whether it is one number per parameter (0-d, fp64) instead of one per element.
        per_row: Whether it is one number per row of each matrix, in the dtype of computation. A rule sees a tensor of
            the shape of its argument `g` without the last dimension; of a vector, which is a column, the whole shape.
        non_negative: Whether its elements are never negative, as an average of squares. `state_dtype="8bit"` then
            keeps the precision of their square roots, and rounds no positive element to 0.
    """

    name: str
    symbol: str
    init: float = 0.0
    scalar: bool = False
    per_row: bool = False
    non_negative: bool = False

    @property
    def per_element(self) -> bool:
        """Whether it has one number per element of the parameter."""
        return not (self.scalar or self.per_row)


#: The learning rate, which every rule has outside of its function. The logarithm of a factor on the lr that the user or
#: a scheduler sets is learned, so that no hyper-step can make lr negative (Baydin et al., ICLR 2018, learn lr itself).
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
    """The key of a learned coefficient in a parameter group: its name, and for lr "log_lr", beside the set "lr"."""
    return "log_lr" if name == LR.name else name


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule.

    Attributes:
        name: Key in the registry.
        update: The pure function described at the head of this module.
        coefficients: The coefficients, in a fixed order.
        slots: The slots, in a fixed order.
        hyper_parameters: Defaults by name of the numbers that are never learned, such as `eps`.
        pointwise: Whether each element of `u` and of the slots depends on that element alone. Engines use it to regroup
            elements. A rule that is not pointwise gets a parameter of more than two dimensions as a matrix or a batch
            of matrices (`mada_optim.layouts`).
        matrix_weight: Name of a coefficient that is fixed at 0 for all tensors but hidden weight matrices
            (`mada_optim.matrices.hidden_matrices`). With it at 0, the rule must be pointwise.
        decays: Names of the hyper-parameters that are decays of averages, in [0, 1). The others are >= 0.
    """

    name: str
    update: Update
    coefficients: tuple[Coefficient, ...]
    slots: tuple[Slot, ...]
    hyper_parameters: Mapping[str, float] = field(default_factory=dict)
    pointwise: bool = True
    matrix_weight: str | None = None
    decays: tuple[str, ...] = ()

    def coefficient_names(self) -> tuple[str, ...]:
        """Names of the coefficients, in the rule's order."""
        return tuple(q.name for q in self.coefficients)

    def slot_names(self) -> tuple[str, ...]:
        """Names of the slots, in the rule's order."""
        return tuple(slot.name for slot in self.slots)
