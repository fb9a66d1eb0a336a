"""The partial derivatives of the operations in rules."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from mada_optim.graph.builder import Builder, UnknownOperationError, Value, operation_of


class Factor:
    """A partial derivative: a scalar times an operation on an element value."""

    def __init__(self, scalar: Value = 1.0, element: Callable[[Builder, Value], Value] | None = None) -> None:
        self.scalar, self._element = scalar, element
        self.is_scalar = element is None

    def element(self, build: Builder, e: Value) -> Value:
        return e if self._element is None else self._element(build, e)


def times(build: Builder, x: Any) -> Factor:
    return Factor(element=lambda build, e: build.mul(e, x)) if build.is_element(x) else Factor(x)


def over(build: Builder, x: Any, number: float = 1.0) -> Factor:
    """The factor number/x; 1/x is made once."""
    inverse = build(operator.truediv, 1.0, x)
    if build.is_element(x):
        return Factor(number, lambda build, e: build.mul(e, inverse))
    return Factor(build.mul(number, inverse))


def where(condition: Any, holds: bool) -> Factor:
    """1 where the condition holds (or does not), 0 elsewhere."""
    return Factor(element=lambda build, e: build(torch.where, condition, *((e, 0.0) if holds else (0.0, e))))


def partials(build: Builder, node: fx.Node) -> Iterable[tuple[Any, Factor]]:
    """Each argument of an operation, with the derivative in it. Raises UnknownOperationError if it isn't known."""
    name = operation_of(node)
    if name not in PARTIALS:
        raise UnknownOperationError(name)
    factors = PARTIALS[name](build, node, *node.args, **node.kwargs)
    return [(x, factor) for x, factor in factors if isinstance(x, fx.Node)]


def _truediv(build: Builder, out: fx.Node, x: Any, y: Any) -> list[tuple[Any, Factor]]:
    by_x, out_factor = over(build, y), times(build, out)

    def both(build: Builder, e: Value) -> Value:
        return out_factor.element(build, by_x.element(build, e))

    scalar = build.mul(build.mul(-1.0, by_x.scalar), out_factor.scalar)
    return [(x, by_x), (y, Factor(scalar, both))]


def _pow(build: Builder, out: fx.Node, x: Any, n: Any) -> list[tuple[Any, Factor]]:
    power = x if n == 2 else build(operator.pow, x, build(operator.sub, n, 1))
    if build.is_element(x):
        return [(x, Factor(n, lambda b, e: b.mul(e, power)))]
    return [(x, times(build, build.mul(n, power)))]


def _maximum(build: Builder, out: fx.Node, x: Any, y: Any) -> list[tuple[Any, Factor]]:
    def side(a: Any, b: Any) -> Factor:
        def part(build: Builder, e: Value) -> Value:
            tie = build(torch.where, build(operator.eq, a, b), build.mul(0.5, e), 0.0)
            return build(torch.where, build(operator.gt, a, b), e, tie)

        return Factor(element=part)

    return [(x, side(x, y)), (y, side(y, x))]


def _clamp(build: Builder, out: fx.Node, x: Any, min: Any = None, max: Any = None) -> list[tuple[Any, Factor]]:
    if max is not None or min is None:
        raise UnknownOperationError("clamp from above")
    return [(x, where(build(operator.ge, x, min), holds=True))]


PARTIALS: dict[str, Callable[..., Iterable[tuple[Any, Factor]]]] = {
    "add": lambda build, out, x, y: [(x, Factor()), (y, Factor())],
    "sub": lambda build, out, x, y: [(x, Factor()), (y, Factor(-1.0))],
    "mul": lambda build, out, x, y: [(x, times(build, y)), (y, times(build, x))],
    "neg": lambda build, out, x: [(x, Factor(-1.0))],
    "truediv": _truediv,
    "pow": _pow,
    "sqrt": lambda build, out, x: [(x, over(build, out, 0.5))],
    "where": lambda build, out, c, x, y: [(x, where(c, holds=True)), (y, where(c, holds=False))],
    "maximum": _maximum,
    "clamp": _clamp,
    # no derivative, or 0 almost everywhere
    **dict.fromkeys(("sign", "detach", "eq", "ge", "gt", "le", "lt"), lambda *_, **__: []),
}
