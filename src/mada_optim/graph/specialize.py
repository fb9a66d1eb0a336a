"""Evaluates a rule as far as its fixed coefficients allow: terms and slots that they switch off fall away.

The rule's function is traced once into a graph of operations. A coefficient that is fixed at 0 or 1 removes terms times
0, and factors and divisors of 1; then every slot without a path to the update is removed. MADA with Adam's values
(beta3 = 0, rho = c = gamma = 1) becomes Adam's function, with Adam's two slots.

The values are bit-identical to those of the whole rule, up to the sign of a zero; but 0 times infinity, NaN in the
whole rule, is 0 here. A rule that can't be traced, because it branches in Python on its arguments, stays whole.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.fx.proxy import GraphAppendingTracer, Proxy

from mada_optim.rule import Coefficients, Rule, Slots, Update

CORNERS = (0.0, 1.0)
SLOT = "slot_"  # prefix of a slot's node: a slot may be called like a coefficient

#: Errors of a function that can't be traced: it branches on a value (a TraceError is a ValueError), or needs a number.
UNTRACEABLE = (ValueError, TypeError, RuntimeError)

Corners = tuple[tuple[str, float], ...]
Known = float | int
Inputs = Callable[[fx.Node], Iterable[fx.Node]]
Folded = Any  # a number, a node of the graph, or None where the operation stays


def corners(rule: Rule, options: Mapping[str, Any], learned: tuple[str, ...]) -> Corners:
    """The coefficients and hyper-parameters that `options` (a parameter group) fix at 0 or 1.

    Only Python numbers count: a tensor may change unnoticed.
    """
    names = (*rule.coefficient_names(), *rule.hyper_parameters)
    return tuple((q, float(options[q])) for q in names if q not in learned and is_corner(options[q]))


def is_corner(x: Any) -> bool:
    """Whether `x` is a Python number at which terms fall away."""
    return isinstance(x, float | int) and x in CORNERS


@functools.lru_cache(maxsize=256)
def specialize(rule: Rule, fixed: Corners) -> Rule:
    """The form of `rule` with these coefficients fixed."""
    if not fixed:
        return rule
    try:
        graph = reduced(rule, fixed)
    except UNTRACEABLE:
        return rule
    slots = tuple(slot for slot in rule.slots if slot.name in outputs(graph)[1])
    pointwise = rule.pointwise or (rule.matrix_weight, 0.0) in fixed
    return replace(rule, update=function_of(graph), slots=slots, pointwise=pointwise)


def reduced(rule: Rule, fixed: Corners) -> fx.Graph:
    """The graph of the rule's form. Raises one of UNTRACEABLE if the rule branches on its arguments."""
    graph = trace(rule)
    if fixed:
        fold(graph, dict(fixed))
        _drop_idle_slots(graph)
    return graph


class _Tracer(GraphAppendingTracer):
    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            raise TypeError("a tensor that the rule makes can't be written into a graph")
        return super().create_arg(a)


def trace(rule: Rule) -> fx.Graph:
    """The rule's operations as a graph from coefficients, `g`, slots (names after `SLOT`) and `t` to `(u, s')`."""
    graph = fx.Graph()
    tracer = _Tracer(graph)

    def given(name: str) -> Any:
        return Proxy(graph.placeholder(name), tracer)

    c = {name: given(name) for name in (*rule.coefficient_names(), *rule.hyper_parameters)}
    g, s, t = given("g"), {name: given(SLOT + name) for name in rule.slot_names()}, given("t")
    u, after = rule.update(c, g, s, t)
    graph.output(tracer.create_arg((u, dict(after))))
    for node in graph.nodes:
        if node.target == "where" and len(node.args) == 3:  # x.where(condition, y) is where(condition, x, y)
            x, condition, y = node.args
            node.op, node.target, node.args = "call_function", torch.where, (condition, x, y)
    return graph


def outputs(graph: fx.Graph) -> tuple[Any, Any]:
    """The update and the next slots by name, as nodes; for a graph of derivatives, the derivatives and the product."""
    pair: Any = graph.output_node().args[0]
    return pair[0], pair[1]


def fold(graph: fx.Graph, known: Mapping[str, Known]) -> None:
    """Evaluates in place the operations whose values follow from the inputs in `known`."""
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and node.target in known:
            values[node] = known[node.target]
            continue
        args = map_arg(node.args, lambda x: values.get(x, x))
        result = ALGEBRA[node.target](*args) if node.target in ALGEBRA else None
        if result is not None:
            values[node] = result
        else:  # other operations, and the output, take tensors
            node.args = args if node.target in ALGEBRA else map_arg(node.args, lambda x: _tensor(x, values))


def _tensor(node: fx.Node, values: Mapping[fx.Node, Any]) -> fx.Node:
    """The value of `node`, unless it is a number."""
    value = values.get(node, node)
    return value if isinstance(value, fx.Node) else node


def _both(f: Callable[[float, float], float], x: Any, y: Any) -> Folded:
    return f(x, y) if isinstance(x, Known) and isinstance(y, Known) else None


def _mul(x: Any, y: Any) -> Folded:
    for one, other in ((x, y), (y, x)):
        if isinstance(one, Known) and one in CORNERS:
            return 0.0 if one == 0 else other
    return _both(operator.mul, x, y)


def _add(x: Any, y: Any) -> Folded:
    for one, other in ((x, y), (y, x)):
        if isinstance(one, Known) and one == 0:
            return other
    return _both(operator.add, x, y)


def _sub(x: Any, y: Any) -> Folded:
    return x if isinstance(y, Known) and y == 0 else _both(operator.sub, x, y)


def _truediv(x: Any, y: Any) -> Folded:
    if isinstance(x, Known) and x == 0:
        return 0.0
    return x if isinstance(y, Known) and y == 1 else _both(operator.truediv, x, y)


ALGEBRA: dict[Any, Callable[[Any, Any], Folded]] = {
    operator.mul: _mul,
    operator.add: _add,
    operator.sub: _sub,
    operator.truediv: _truediv,
}


def nodes_behind(ends: Iterable[Any], inputs: Inputs = lambda node: node.all_input_nodes) -> set[fx.Node]:
    """The nodes among `ends`, and all nodes that they are computed from; `inputs` gives a node's operands."""
    reached: set[fx.Node] = set()
    ahead = [x for x in ends if isinstance(x, fx.Node)]
    while ahead:
        node = ahead.pop()
        if node not in reached:
            reached.add(node)
            ahead.extend(inputs(node))
    return reached


def _drop_idle_slots(graph: fx.Graph) -> None:
    """Keeps the slots that reach the update, in any number of steps."""
    u, after = outputs(graph)
    needed: set[str] = set()
    while more := _slots_behind([u, *(after[name] for name in needed)]) - needed:
        needed |= more
    graph.output_node().args = ((u, {name: x for name, x in after.items() if name in needed}),)
    graph.eliminate_dead_code()


def _slots_behind(ends: list[Any]) -> set[str]:
    names = (str(node.target) for node in nodes_behind(ends) if node.op == "placeholder")
    return {name.removeprefix(SLOT) for name in names if name.startswith(SLOT)}


def function_of(graph: fx.Graph) -> Update:
    """The graph as a rule's update."""
    used = [str(node.target) for node in graph.nodes if node.op == "placeholder" and node.users]
    for node in [node for node in graph.nodes if node.op == "placeholder" and not node.users]:
        graph.erase_node(node)
    forward = fx.GraphModule({}, graph).forward

    def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        given = {**c, **{SLOT + name: x for name, x in s.items()}, "g": g, "t": t}
        u, after = forward(*(given[name] for name in used))
        return u, after

    return update
