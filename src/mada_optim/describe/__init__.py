r"""What a rule computes, in the letters of a paper, read from its one function, so that no page can say otherwise.

    from mada_optim.describe import describe
    print(describe("adam").equations[0])    # m_t = \beta_1 \, m_{t-1} + (1 - \beta_1) \, g_t

`python -m mada_optim.describe NAME` prints a rule's page; `--write docs/reference/rules` writes those of all rules.
"""

import functools
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mada_optim import checks
from mada_optim.describe.corners import Fixed, equal_rule, single, slots_left
from mada_optim.describe.expression import letters, lines
from mada_optim.describe.graphs import Traced, function, traced
from mada_optim.describe.latex import latex
from mada_optim.describe.symbols import symbol
from mada_optim.graph.specialize import UNTRACEABLE
from mada_optim.rule import Coefficient, Rule, Slot
from mada_optim.rules import RULES

ELEMENT = 4  # bytes of a number in fp32
SCALAR = 8  # bytes of a number per tensor, in fp64


@dataclass(frozen=True)
class Equation:
    """A line in LaTeX: what is called `name` in code, and `left` on paper, is `right`."""

    name: str
    left: str
    right: str

    def __str__(self) -> str:
        return f"{self.left} = {self.right}"


@dataclass(frozen=True)
class HyperParameter:
    """A number that is never learned."""

    name: str
    symbol: str
    default: float


@dataclass(frozen=True)
class Corner:
    """One coefficient or hyper-parameter, not learned, at a value where slots or terms fall away.

    Attributes:
        name: The coefficient or hyper-parameter.
        value: 0 or 1.
        slots_gone: Names of the slots that are no longer kept.
        terms_gone: Names of the other equations that are no longer computed.
        equations: Those that are left.
    """

    name: str
    value: float
    slots_gone: tuple[str, ...]
    terms_gone: tuple[str, ...]
    equations: tuple[Equation, ...]


@dataclass(frozen=True)
class Equal:
    """Another rule that this one comes to.

    Attributes:
        rule: Its name in the registry.
        fixed: The values of coefficients and hyper-parameters that make it so.
        renamed: Names here of what has another name there.
        slots: Names of the slots that are left.
    """

    rule: str
    fixed: Mapping[str, float]
    renamed: Mapping[str, str]
    slots: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """What a rule computes, learns and keeps.

    Attributes:
        name: Key in the registry.
        text: What the rule's function, or else its file, says of itself.
        equations: The update and the slots, in the order of computation; none where the function can't be traced.
        coefficients: What may be learned.
        hyper_parameters: What is fixed.
        slots: What is kept.
        corners: What one fixed number makes fall away.
        equals: The other rules of the registry that this one contains.
        untraced: Why there are no equations, or "".
    """

    name: str
    text: str
    equations: tuple[Equation, ...]
    coefficients: tuple[Coefficient, ...]
    hyper_parameters: tuple[HyperParameter, ...]
    slots: tuple[Slot, ...]
    corners: tuple[Corner, ...] = ()
    equals: tuple[Equal, ...] = ()
    untraced: str = ""

    def bytes_per_parameter(self, learning: bool = False, slots: Iterable[str] | None = None) -> int:
        """Bytes for each element of a parameter in fp32: the slots, or those named, and while learning the gradient."""
        kept = [slot.name for slot in self.slots if not slot.scalar]
        return ELEMENT * (len(kept if slots is None else {*kept} & {*slots}) + learning)

    def bytes_per_tensor(self, learning: bool = False) -> int:
        """Bytes for each parameter tensor, of any size: t, scalar slots, and while learning what was last applied."""
        scalars = sum(slot.scalar for slot in self.slots)
        return SCALAR * (1 + scalars + learning * (1 + len(self.coefficients)))


def describe(rule: str | Rule) -> Description:
    """What `rule` computes, learns and keeps.

    Args:
        rule: Name in `mada_optim.rules.RULES`, or any `Rule`.

    Raises:
        ValueError: There is no rule of this name.
    """
    if not isinstance(rule, Rule):
        rule = RULES[checks.member("rule", rule, RULES, "the registry is mada_optim.rules.RULES")]
    try:
        form = traced(rule)
    except UNTRACEABLE as error:
        return _plain(rule, f"{type(error).__name__}: {error}")
    known = letters(form)
    return Description(
        rule.name,
        _text(rule),
        _equations(form, rule.slot_names()),
        rule.coefficients,
        tuple(HyperParameter(name, known[name], x) for name, x in rule.hyper_parameters.items()),
        rule.slots,
        tuple(_corner(rule, fixed, _equations(form, rule.slot_names())) for fixed in single(rule)),
        _equals(rule),
    )


def _plain(rule: Rule, reason: str) -> Description:
    given = tuple(HyperParameter(name, symbol(name), x) for name, x in rule.hyper_parameters.items())
    return Description(rule.name, _text(rule), (), rule.coefficients, given, rule.slots, untraced=reason)


def _text(rule: Rule) -> str:
    update = function(rule)
    return inspect.getdoc(update) or inspect.getdoc(inspect.getmodule(update)) or ""


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

    def form(fixed: Fixed) -> Traced:
        return cached(tuple(fixed.items()))

    corners = {other.name: equal_rule(rule, other, form) for other in RULES.values() if other is not rule}
    found = {name: corner for name, corner in corners.items() if corner is not None}
    return tuple(Equal(name, fixed, names, slots_left(rule, fixed)) for name, (fixed, names) in found.items())
