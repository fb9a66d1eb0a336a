"""A rule's graph of operations with the names its author gave, and graphs that are found in one another."""

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import fx
from torch.fx.proxy import GraphAppendingTracer, Proxy

from mada_optim.graph.specialize import SLOT, fold, trace
from mada_optim.rule import Rule
from mada_optim.rules.terms import root

COMMUTATIVE = (operator.add, operator.mul)

Bound = dict[fx.Node, Any]
Admits = Callable[[fx.Node, Any], bool]


@dataclass(frozen=True)
class Traced:
    """The operations of a rule's function, constants folded.

    Attributes:
        rule: The rule.
        u: The update's node.
        after: The next slots' nodes, or numbers, by name.
        names: The local variables of the function: nodes by name, or numbers.
    """

    rule: Rule
    u: Any
    after: Mapping[str, Any]
    names: Mapping[str, Any]


def traced(rule: Rule, fixed: Mapping[str, float] | None = None) -> Traced:
    """The graph of `rule` where coefficients or hyper-parameters have the values in `fixed`.

    Raises:
        ValueError, TypeError, RuntimeError: The function can't be evaluated on symbols.
    """
    graph, names = _named_trace(rule)
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ((*output.args[0], names),)  # so that what a variable comes to is looked up in folding too
    fold(graph, fixed or {})
    u, after, names = output.args[0]
    return Traced(rule, u, after, names)


def _named_trace(rule: Rule) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """The graph, and the nodes that the local variables of the rule's function hold when it returns."""
    names: dict[str, fx.Node] = {}
    code = getattr(function(rule), "__code__", None)

    def remember(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            names.update({name: x.node for name, x in frame.f_locals.items() if isinstance(x, Proxy)})

    outer = sys.getprofile()
    sys.setprofile(remember)
    try:
        return trace(rule), names
    finally:
        sys.setprofile(outer)


def function(rule: Rule) -> Callable[..., Any]:
    """What the author wrote, behind `functools.partial` and decorators."""
    update: Callable[..., Any] = rule.update
    while isinstance(update, functools.partial):
        update = update.func
    written: Callable[..., Any] = inspect.unwrap(update)
    return written


def match(pattern: Any, found: Any, bound: Bound | None, admits: Admits) -> Bound | None:
    """What the placeholders of `pattern` stand for if it has the same operations as `found`, or None.

    Args:
        pattern: A node, or an argument of one.
        found: The same, of the other graph.
        bound: What placeholders of the pattern are known to stand for; None if it is known that they can't.
        admits: Whether a placeholder may stand for something.
    """
    if bound is None:
        return None
    if not isinstance(pattern, fx.Node):
        return bound if not isinstance(found, fx.Node) and pattern == found else None
    if pattern.op == "placeholder":
        if pattern in bound:
            return bound if bound[pattern] is found else None
        return {**bound, pattern: found} if admits(pattern, found) else None
    if not isinstance(found, fx.Node) or (pattern.op, pattern.target) != (found.op, found.target):
        return None
    if pattern.kwargs.keys() != found.kwargs.keys() or len(pattern.args) != len(found.args):
        return None
    bound = _match_all(pattern.kwargs.values(), [found.kwargs[key] for key in pattern.kwargs], bound, admits)
    in_order = _match_all(pattern.args, found.args, bound, admits)
    if in_order is None and pattern.target in COMMUTATIVE:
        return _match_all(pattern.args, found.args[::-1], bound, admits)
    return in_order


def _match_all(patterns: Iterable[Any], found: Iterable[Any], bound: Bound | None, admits: Admits) -> Bound | None:
    for pattern, x in zip(patterns, found, strict=True):
        bound = match(pattern, x, bound, admits)
    return bound


@functools.lru_cache(maxsize=1)
def _root_pattern() -> tuple[fx.Node, fx.Node]:
    graph = fx.Graph()
    x = graph.placeholder("x")
    return x, root(Proxy(x, GraphAppendingTracer(graph))).node  # type: ignore[arg-type, attr-defined]


def under_root(node: fx.Node) -> Any:
    """What the square root is taken of where `node` is the shared term `root`, else None."""
    x, pattern = _root_pattern()
    bound = match(pattern, node, {}, lambda *_: True)
    return None if bound is None else bound[x]


def kind(node: fx.Node) -> str:
    """What a placeholder is: "g", "t", "slot" or "number"."""
    name = str(node.target)
    return name if name in ("g", "t") else "slot" if name.startswith(SLOT) else "number"
