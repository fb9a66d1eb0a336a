"""LaTeX of an expression. Fractions are upright; inside fractions they have a slash."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from mada_optim.describe.expression import SEQUENCE, Call, Expression, Literal, Symbol

# Precedence of a text's outermost operation; a text of lower precedence than its place needs gets parentheses.
CASES, SUM, SLASH, PRODUCT, FRACTION, POWER, ATOM = range(7)

SAME = {  # torch's names for operations that Python's operators have too
    "div": "truediv",
    "true_divide": "truediv",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "clamp_min": "maximum",
    "clamp_max": "minimum",
    "mm": "matmul",
}
# GitHub refuses \operatorname.
FUNCTIONS = {"exp": r"\exp", "log": r"\ln", "tanh": r"\tanh", "maximum": r"\max", "minimum": r"\min"}
FUNCTIONS |= {"orthogonal": r"\mathrm{orth}", "polar": r"\mathrm{polar}"}
FUNCTIONS |= {"row_mean_squares": r"\mathrm{rows}", "row_factors": r"\mathrm{factors}"}
FUNCTIONS |= {"sign": r"\mathrm{sign}", "detach": r"\mathrm{const}"}
RELATIONS = {"eq": "=", "ne": r"\ne", "lt": "<", "le": r"\le", "gt": ">", "ge": r"\ge"}
TRANSPOSES = (Literal("T"), Literal("mT"))
OPERANDS = {"neg": 1, "sqrt": 1, "abs": 1, "where": 3}  # of the others, 2


@dataclass(frozen=True)
class Text:
    """LaTeX, and the precedence of its outermost operation."""

    latex: str
    hold: int = ATOM

    def within(self, place: int) -> str:
        """The text in a place that needs at least the precedence `place`."""
        return self.latex if self.hold >= place else parenthesized(self.latex)


def latex(x: Expression) -> str:
    r"""LaTeX of `x`, such as `\beta_1 \, m_{t-1} + (1 - \beta_1) \, g_t`."""
    return text(x).latex


def parenthesized(inner: str) -> str:
    """`inner` in parentheses, which grow if it is tall."""
    tall = any(command in inner for command in (r"\frac", r"\sqrt", r"\begin"))
    return rf"\left({inner}\right)" if tall else f"({inner})"


def text(x: Expression, flat: bool = False) -> Text:
    """LaTeX of `x` with its precedence; `flat` writes fractions with a slash, as inside fractions and exponents."""
    if isinstance(x, Symbol):
        return Text(x.latex)
    if isinstance(x, Literal):
        return _literal(x)
    return _call(x, flat)


def _literal(x: Literal) -> Text:
    if isinstance(x.value, bool) or not isinstance(x.value, int | float):
        return Text(_words(str(x.value)))
    digits, _, exponent = f"{x.value:.15g}".partition("e")
    if not exponent:
        return Text(digits, SUM if x.value < 0 else ATOM)
    power = f"10^{{{int(exponent)}}}"
    return Text(power, POWER) if digits == "1" else Text(rf"{digits} \cdot {power}", SUM if x.value < 0 else PRODUCT)


def _call(x: Call, flat: bool) -> Text:
    name = SAME.get(x.operation, x.operation)
    if name in OPERATORS and len(x.arguments) == OPERANDS.get(name, 2) and not x.keywords:
        return OPERATORS[name](x.arguments, flat)
    if name == "clamp":
        return _clamp(x, flat)
    if name in RELATIONS:
        left, right = (text(a, flat).within(SUM) for a in x.arguments)
        return Text(f"{left} {RELATIONS[name]} {right}", CASES)
    if name == "getattr" and x.arguments[1] in TRANSPOSES:
        return Text(rf"{text(x.arguments[0]).within(ATOM)}^\top", POWER)
    head = "" if name == SEQUENCE else FUNCTIONS[name] if name in FUNCTIONS else _words(name)
    arguments = [text(a, flat).latex for a in x.arguments]
    arguments += [f"{_words(key)} = {text(a, flat).latex}" for key, a in x.keywords]
    return Text(head + parenthesized(", ".join(arguments)), POWER)


def _words(x: str) -> str:
    escaped = re.sub(r"([_#%&${}])", r"\\\1", x)
    return rf"\text{{{escaped}}}"


def _clamp(x: Call, flat: bool) -> Text:
    """min(max(x, low), high), or one of the two."""
    inner, *ends = x.arguments
    given = {**dict(zip(("min", "max"), ends, strict=False)), **dict(x.keywords)}
    for end, bound in (("min", "maximum"), ("max", "minimum")):
        if given.get(end, Literal(None)) != Literal(None):
            inner = Call(bound, (inner, given[end]))
    return text(inner, flat)


Arguments = tuple[Expression, ...]


def _add(x: Arguments, flat: bool, sign: str = "+") -> Text:
    left, right = (text(a, flat) for a in x)
    return Text(f"{left.within(SUM)} {sign} {right.within(SLASH)}", SUM)


def _mul(x: Arguments, flat: bool) -> Text:
    left, right = (text(a, flat).within(PRODUCT) for a in x)
    between = r"\cdot" if right[0].isdigit() else r"\,"
    return Text(f"{left} {between} {right}", PRODUCT)


def _truediv(x: Arguments, flat: bool) -> Text:
    left, right = (text(a, flat=True) for a in x)
    if flat:
        return Text(f"{left.within(PRODUCT)} / {right.within(FRACTION)}", SLASH)
    return Text(rf"\frac{{{left.latex}}}{{{right.latex}}}", FRACTION)


def _pow(x: Arguments, flat: bool) -> Text:
    base, exponent = text(x[0], flat).within(ATOM), text(x[1], flat=True).latex
    base = parenthesized(base) if "^" in base and not base.endswith(")") else base
    return Text(f"{base}^{exponent}" if len(exponent) == 1 else f"{base}^{{{exponent}}}", POWER)


def _where(x: Arguments, flat: bool) -> Text:
    condition, then, otherwise = (text(a, flat=True).latex for a in x)
    rows = rf"{then} & \text{{if }} {condition} \\ {otherwise} & \text{{otherwise}}"
    return Text(rf"\begin{{cases}} {rows} \end{{cases}}", CASES)


OPERATORS: dict[str, Callable[[Arguments, bool], Text]] = {
    "add": _add,
    "sub": functools.partial(_add, sign="-"),
    "neg": lambda x, flat: Text(f"-{text(x[0], flat).within(SLASH)}", SUM),
    "mul": _mul,
    "matmul": _mul,
    "truediv": _truediv,
    "pow": _pow,
    "sqrt": lambda x, _: Text(rf"\sqrt{{{text(x[0], flat=True).latex}}}"),
    "abs": lambda x, flat: Text(rf"\left|{text(x[0], flat).latex}\right|"),
    "where": _where,
}
