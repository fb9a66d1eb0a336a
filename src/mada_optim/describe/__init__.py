r"""Describes a rule: its equations in LaTeX, coefficients, slots and corners, all read from its function.

    from mada_optim.describe import describe
    print(describe("adam").equations[0])    # m_t = \beta_1 \, m_{t-1} + (1 - \beta_1) \, g_t

`python -m mada_optim.describe NAME` prints the page of a rule; `--write FOLDER` writes the pages of all rules.
"""

import functools
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mada_optim.describe.corners import Fixed, equal_rule, single, slots_left
from mada_optim.describe.expression import letters, lines
from mada_optim.describe.graphs import Traced, function, traced
from mada_optim.describe.latex import latex
from mada_optim.describe.symbols import symbol
from mada_optim.graph.specialize import UNTRACEABLE
from mada_optim.registry import find_rule
from mada_optim.rule import Coefficient, Rule, Slot
from mada_optim.rules import RULES

ELEMENT = 4  # bytes of a number in fp32
SCALAR = 8  # bytes of a number per tensor, in fp64


@dataclass(frozen=True)
class Equation:
    """An equation in LaTeX, `left = right`, of the variable that is called `name` in code."""

    name: str
    left: str
    right: str

    def __str__(self) -> str:
        return f"{self.left} = {self.right}"


@dataclass(frozen=True)
class HyperParameter:
    """A number of the rule that is never learned."""

    name: str
    symbol: str
    default: float


@dataclass(frozen=True)
class Corner:
    """A fixed value of one coefficient or hyper-parameter at which slots or terms fall away."""

    name: str  # the coefficient or hyper-parameter
    value: float  # 0 or 1
    slots_gone: tuple[str, ...]  # names of the slots that are no longer kept
    terms_gone: tuple[str, ...]  # names of the other equations that are no longer computed
    equations: tuple[Equation, ...]  # the remaining equations


@dataclass(frozen=True)
class Equal:
    """Another rule of the registry that a rule equals at certain values."""

    rule: str  # name of the other rule
    fixed: Mapping[str, float]  # the values of coefficients and hyper-parameters at which the two are equal
    renamed: Mapping[str, str]  # names in the other rule, by the different names in this one
    slots: tuple[str, ...]  # names of the remaining slots


@dataclass(frozen=True)
class Description:
    """A rule's equations, coefficients, hyper-parameters, slots and corners."""

    name: str  # key in the registry
    text: str  # the docstring of the rule's function, or else of its file
    # the update and the slots, in the order of computation; none if the function can't be traced
    equations: tuple[Equation, ...]
    coefficients: tuple[Coefficient, ...]  # the numbers that may be learned
    hyper_parameters: tuple[HyperParameter, ...]  # the fixed numbers
    slots: tuple[Slot, ...]  # the tensors that are kept for each parameter
    corners: tuple[Corner, ...] = ()  # the corners of one coefficient or hyper-parameter
    equals: tuple[Equal, ...] = ()  # the other rules of the registry that this one contains
    untraced: str = ""  # why there are no equations, or ""

    def bytes_per_parameter(self, learning: bool = False, slots: Iterable[str] | None = None) -> int:
        """Bytes for each element of a parameter in fp32: the slots, or those named, and while learning the gradient."""
        kept = [slot.name for slot in self.slots if slot.per_element]
        return ELEMENT * (len(kept if slots is None else {*kept} & {*slots}) + learning)

    def bytes_per_tensor(self, learning: bool = False) -> int:
        """Bytes for each parameter tensor, of any size: t, scalar slots, and while learning the last applied values."""
        scalars = sum(slot.scalar for slot in self.slots)
        return SCALAR * (1 + scalars + learning * (1 + len(self.coefficients)))


def describe(rule: str | Rule) -> Description:
    """The description of a rule, or of the rule of this name. Raises ValueError if there is none."""
    rule = find_rule(rule)
    try:
        form = traced(rule)
    except UNTRACEABLE as error:
        letter = {name: symbol(name) for name in rule.hyper_parameters}
        return replace(_plain(rule, letter), untraced=f"{type(error).__name__}: {error}")
    equations, corners = _equations(form, rule.slot_names()), single(rule)
    return replace(
        _plain(rule, letters(form)),
        equations=equations,
        corners=tuple(_corner(rule, fixed, equations) for fixed in corners),
        equals=_equals(rule),
    )


def _plain(rule: Rule, letter: Mapping[str, str]) -> Description:
    """The description without equations; `letter` has the LaTeX of hyper-parameters."""
    update = function(rule)
    text = inspect.getdoc(update) or inspect.getdoc(inspect.getmodule(update)) or ""
    given = tuple(HyperParameter(name, letter[name], x) for name, x in rule.hyper_parameters.items())
    return Description(rule.name, text, (), rule.coefficients, given, rule.slots)


def _equations(form: Traced, slots: Iterable[str]) -> tuple[Equation, ...]:
    return tuple(Equation(line.name, line.left.latex, latex(line.right)) for line in lines(form, slots))


def _corner(rule: Rule, fixed: Fixed, whole: tuple[Equation, ...]) -> Corner:
    ((name, value),) = fixed.items()
    kept = slots_left(rule, fixed)
    left = _equations(traced(rule, fixed), kept)
    slots_gone = tuple(slot for slot in rule.slot_names() if slot not in kept)
    present = {*rule.slot_names(), *(equation.name for equation in left)}
    terms_gone = tuple(equation.name for equation in whole if equation.name not in present)
    return Corner(name, value, slots_gone, terms_gone, left)


def _equals(rule: Rule) -> tuple[Equal, ...]:
    cached = functools.cache(lambda fixed: traced(rule, dict(fixed)))
    found = []
    for other in RULES.values():
        equal = other is not rule and equal_rule(rule, other, lambda fixed: cached(tuple(fixed.items())))
        if equal:
            found.append(Equal(other.name, *equal, slots_left(rule, equal[0])))
    return tuple(found)
