"""Traces a rule to a graph that keeps the author's variable names, and matches graphs."""

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
    """The graph of a rule's function, with constants folded."""

    rule: Rule
    u: Any  # node of the update
    after: Mapping[str, Any]  # nodes of the next slots by name, or numbers
    names: Mapping[str, Any]  # the local variables of the function by name: nodes, or numbers


def traced(rule: Rule, fixed: Mapping[str, float] | None = None) -> Traced:
    """The graph of `rule` with the values in `fixed`. Raises one of UNTRACEABLE if it can't be evaluated on symbols."""
    graph, names = _named_trace(rule)
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ((*output.args[0], names),)  # so that folding replaces the nodes of variables too
    fold(graph, fixed or {})
    u, after, names = output.args[0]
    return Traced(rule, u, after, names)


def _named_trace(rule: Rule) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """The graph, and the nodes of the local variables of the rule's function when it returns."""
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
    """The rule's function without `functools.partial` and decorators."""
    update: Callable[..., Any] = rule.update
    while isinstance(update, functools.partial):
        update = update.func
    written: Callable[..., Any] = inspect.unwrap(update)
    return written


def match(pattern: Any, subject: Any, bound: Bound | None, admits: Admits) -> Bound | None:
    """The values of the placeholders of `pattern` if it has the same operations as `found`; None otherwise.

    Args:
        pattern: A node, or an argument of a node.
        subject: A node or argument of the other graph.
        bound: The known values of placeholders; None after a mismatch.
        admits: Whether a placeholder, its first argument, may have a value, its second.
    """
    if bound is None:
        return None
    if not isinstance(pattern, fx.Node):
        return bound if not isinstance(subject, fx.Node) and pattern == subject else None
    if pattern.op == "placeholder":
        if pattern in bound:
            return bound if bound[pattern] is subject else None
        return {**bound, pattern: subject} if admits(pattern, subject) else None
    if not isinstance(subject, fx.Node) or (pattern.op, pattern.target) != (subject.op, subject.target):
        return None
    if pattern.kwargs.keys() != subject.kwargs.keys() or len(pattern.args) != len(subject.args):
        return None
    bound = _match_all(pattern.kwargs.values(), [subject.kwargs[key] for key in pattern.kwargs], bound, admits)
    in_order = _match_all(pattern.args, subject.args, bound, admits)
    if in_order is None and pattern.target in COMMUTATIVE:
        return _match_all(pattern.args, subject.args[::-1], bound, admits)
    return in_order


def _match_all(patterns: Iterable[Any], subject: Iterable[Any], bound: Bound | None, admits: Admits) -> Bound | None:
    for pattern, x in zip(patterns, subject, strict=True):
        bound = match(pattern, x, bound, admits)
    return bound


@functools.lru_cache(maxsize=1)
def _root_pattern() -> tuple[fx.Node, fx.Node]:
    graph = fx.Graph()
    x = graph.placeholder("x")
    return x, root(Proxy(x, GraphAppendingTracer(graph))).node  # type: ignore[arg-type, attr-defined]


def under_root(node: fx.Node) -> Any:
    """The argument of the square root if `node` is the shared term `root`; None otherwise."""
    x, pattern = _root_pattern()
    bound = match(pattern, node, {}, lambda *_: True)
    return None if bound is None else bound[x]


def kind(node: fx.Node) -> str:
    """The kind of a placeholder: "g", "t", "slot" or "number"."""
    name = str(node.target)
    return name if name in ("g", "t") else "slot" if name.startswith(SLOT) else "number"
