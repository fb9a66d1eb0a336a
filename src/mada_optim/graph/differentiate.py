"""The hypergradient of a rule in closed form: reverse-mode differentiation of the rule's graph.

Only derivatives of < cotangent, u > in scalars are needed. So the adjoints of element values are kept as sums

    sum_j k_j e_j,   k_j scalar, e_j element,

whose scalar factors stay outside of the totals: the total of one e is computed once for all its uses.
"""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from mada_optim.graph.builder import Adjoint, Builder, Value, total
from mada_optim.graph.derivatives import Factor, partials


def differentiate(
    graph: fx.Graph, learned: tuple[str, ...], scalars: Iterable[str], with_product: bool = True
) -> fx.Graph:
    """The graph of the derivatives of `< cotangent, u >`, and of the product itself.

    Args:
        graph: A rule's graph from `specialize.trace`, folded or not; it isn't changed.
        learned: The coefficients to differentiate in.
        scalars: Names of the graph's scalar inputs.
        with_product: Whether the product is needed; else it is 0.

    Returns:
        A graph with the additional input `cotangent`, and the output `(derivatives, product)`.

    Raises UnknownOperationError if the rule has an operation without a known derivative.
    """
    result = fx.Graph()
    copy: Any = result.graph_copy(graph, {})
    u, _ = copy
    with result.inserting_before(next(iter(result.nodes))):
        cotangent = result.placeholder("cotangent")
    build = Builder(result, scalars)
    leaves = {str(x.target): x for x in result.nodes if x.op == "placeholder" and x.target in learned}
    adjoints = backward(build, result, u, cotangent, set(leaves.values()))
    derivatives = tuple(adjoints.get(leaves[q], {1.0: 0.0})[1.0] if q in leaves else 0.0 for q in learned)
    share_inverses(build, result)
    product = gather(build, build.mul(cotangent, u)) if with_product else 0.0
    result.output((derivatives, product))
    join_factors(build, result)
    return result


def share_inverses(build: Builder, graph: fx.Graph) -> None:
    """Divides by a scalar once per tensor, and by an element value once: division is the slowest operation."""
    for node in [x for x in graph.nodes if x.target is operator.truediv and build.is_element(x)]:
        x, y = node.args
        if build.is_element(y) and (operator.truediv, 1.0, y) not in build.made:
            continue
        with graph.inserting_before(node):
            inverse = build(operator.truediv, 1.0, y)
        if inverse is not node:
            node.prepend(inverse)
            node.target, node.args = operator.mul, (x, inverse)


def join_factors(build: Builder, graph: fx.Graph) -> None:
    """Makes `(x a) b`, with scalars a and b, into `x (a b)`: one product per element instead of two."""
    for node in [x for x in graph.nodes if x.target is operator.mul and build.is_element(x)]:
        x, b = _element_first(build, node)
        if build.is_element(b) or getattr(x, "target", None) is not operator.mul:
            continue
        y, a = _element_first(build, x)
        if not build.is_element(a):
            with graph.inserting_before(node):
                node.args = (y, build(operator.mul, a, b))
    graph.eliminate_dead_code()


def _element_first(build: Builder, product: fx.Node) -> tuple[Any, Any]:
    x, y = product.args
    return (x, y) if build.is_element(x) else (y, x)


def plain_roots(graph: fx.Graph) -> None:
    """Replaces `terms.root` by the square root, which is 0 at 0, where nothing is differentiated."""
    for node in [x for x in graph.nodes if x.target is torch.where]:
        zero, low, root = node.args
        if low == 0.0 and getattr(root, "target", None) == "sqrt":
            inner = root.args[0]
            if getattr(inner, "target", None) is torch.where and inner.args[:2] == (zero, 1.0):
                root.args = (inner.args[2],)
                node.replace_all_uses_with(root)
    graph.eliminate_dead_code()


def backward(
    build: Builder, graph: fx.Graph, u: Any, cotangent: fx.Node, leaves: set[fx.Node]
) -> Mapping[fx.Node, Adjoint]:
    """The adjoints of all values between `leaves` and `u`."""
    active = set(leaves)
    forward = list(graph.nodes)
    for node in forward:
        if any(x in active for x in node.all_input_nodes):
            active.add(node)
    adjoints: dict[fx.Node, Adjoint] = {u: {cotangent: 1.0}} if u in active else {}
    for node in reversed(forward):
        if node in adjoints and node.op != "placeholder":
            for x, factor in partials(build, node):
                if x in active:
                    share(build, adjoints, node, x, factor)
    return adjoints


def share(build: Builder, adjoints: dict[fx.Node, Adjoint], out: fx.Node, x: fx.Node, factor: Factor) -> None:
    """Adds the part of the adjoint of `out` to the adjoint of `x`."""
    adjoint = adjoints.setdefault(x, {})
    if build.is_element(out) and not build.is_element(x):  # a scalar spread over the elements: sum over them
        for e, k in build.sum_of(adjoints[out]).items():
            gathered = gather(build, factor.element(build, e))
            add_term(build, adjoint, 1.0, build.mul(build.mul(k, factor.scalar), gathered))
        return
    if not build.is_element(x):
        k = build.mul(adjoints[out][1.0], factor.scalar)
        add_term(build, adjoint, 1.0, build.mul(k, factor.element(build, 1.0)))
        return
    whole = adjoints[out] if factor.is_scalar else build.sum_of(adjoints[out])
    for e, k in whole.items():
        add_term(build, adjoint, factor.element(build, e), build.mul(k, factor.scalar))


def gather(build: Builder, x: Value) -> Value:
    """The total of x = e y, from the totals of e times the terms of y, a linear combination with scalar factors.

    With m = beta m_prev + (1 - beta) g, the total of e m comes from those of e m_prev and e g, which the derivative in
    beta needs anyway.
    """
    if not build.is_element(x) or x.target is not operator.mul:
        return build(total, x)
    e, y = x.args
    whole: Value = 0.0
    for basis, k in linear(build, y).items():
        whole = build(operator.add, whole, build.mul(k, build(total, build.mul(e, basis))))
    return whole


def linear(build: Builder, x: Value) -> Adjoint:
    """`x` as a sum of element values with scalar factors."""
    target = x.target if build.is_element(x) else None
    if target in (operator.add, operator.sub) and all(map(build.is_element, x.args)):
        first, second = x.args
        combination = linear(build, first)
        for e, k in linear(build, second).items():
            add_term(build, combination, e, k if target is operator.add else build.mul(-1.0, k))
        return combination
    if target in (operator.mul, operator.truediv) and sum(map(build.is_element, x.args)) == 1:
        return _scaled(build, x)
    return {x: 1.0}


def _scaled(build: Builder, x: fx.Node) -> Adjoint:
    y, k = x.args if build.is_element(x.args[0]) else (x.args[1], x.args[0])
    if x.target is operator.truediv:
        if y is not x.args[0]:
            return {x: 1.0}
        k = build(operator.truediv, 1.0, k)
    return {e: build.mul(k, f) for e, f in linear(build, y).items()}


def add_term(build: Builder, adjoint: Adjoint, e: Value, k: Value) -> None:
    adjoint[e] = build(operator.add, adjoint[e], k) if e in adjoint else k
