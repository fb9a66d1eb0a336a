"""Cuts a rule that orthogonalizes into two pointwise parts, and what is done with matrices between them.

    head     (g, s) -> (x, s')     Muon: the momentum, and x, the momentum with g once more
    middle   x -> O                on whole matrices: one of `mada_optim.matrices.polar_factor`
    rows     (O, r) -> (y, r')     NorMuon: O with a factor on each row, from the mean squares r; y = O without it
    tail     y -> u                Muon: kappa y

All parts are taken from the rule's graph. A rule whose update needs more than y after the cut can't be cut.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import mul
from typing import Any

from torch import Tensor, fx

from mada_optim.graph.specialize import SLOT, UNTRACEABLE, function_of, nodes_behind, outputs, trace
from mada_optim.matrices.polar_factor import OF_MATRICES
from mada_optim.matrices.rows import row_factors, row_mean_squares
from mada_optim.rule import Rule, Slot, Update


@dataclass(frozen=True, eq=False)
class Rows:
    """The part on rows, as two functions of numbers of rows."""

    slot: str  # the name of r
    average: Update  # its gradient is the mean squares of the rows of O; it has one slot, r
    factors: Update  # its gradient is `row_factors`, its update the factors on the rows of O
    numbers: tuple[str, ...]  # the coefficients and hyper-parameters that the two read


@dataclass(frozen=True, eq=False)
class Stages:
    """The parts of a rule."""

    head: Rule  # its update is the middle's argument; it has all slots but r
    middle: Callable[[Tensor], Tensor]  # the operation on whole matrices
    rows: Rows | None
    tail: Rule  # has no slots; its gradient is the result for the matrices


@functools.lru_cache(maxsize=256)
def cut(form: Rule) -> Stages | None:
    """The parts of a rule's form; None if it isn't pointwise in another way."""
    try:
        before, between, after = trace(form), trace(form), trace(form)
    except UNTRACEABLE:
        return None
    middle, slots, of_rows = _only(before, OF_MATRICES), outputs(before)[1], [x for x in form.slots if x.per_row]
    slots = {name: x for name, x in slots.items() if name not in {slot.name for slot in of_rows}}
    if middle is None or middle in nodes_behind(slots.values()):
        return None
    rows = _rows(between, of_rows[0].name) if len(of_rows) == 1 else None
    if (rows is None and of_rows) or not _goes_on_from_matrices(after, scaled=bool(of_rows)):
        return None
    before.output_node().args = ((middle.args[0], slots),)
    head = _part(form, before, "before", tuple(slot for slot in form.slots if not slot.per_row))
    return Stages(head, middle.target, rows, _part(form, after, "after", ()))  # type: ignore[arg-type]


def _only(graph: fx.Graph, targets: Iterable[Any]) -> fx.Node | None:
    """The only node with one of these operations; None if there are several, or none."""
    nodes = [x for x in graph.nodes if x.target in targets]
    return nodes[0] if len(nodes) == 1 else None


def _scaled(graph: fx.Graph) -> tuple[fx.Node, fx.Node] | None:
    """The product of O and the factors on its rows, and these factors; None if O is used otherwise."""
    middle, squares, factors = (_only(graph, x) for x in (OF_MATRICES, (row_mean_squares,), (row_factors,)))
    if middle is None or squares is None or factors is None:
        return None
    others = {*middle.users} - {squares, factors}
    product = others.pop() if len(others) == 1 else None
    if product is None or product.target is not mul or {squares.args[0], factors.args[0]} != {middle}:
        return None
    left, right = product.args
    on_rows: Any = right if left is middle else left
    return (product, on_rows) if isinstance(on_rows, fx.Node) and on_rows is not middle else None


def _rows(graph: fx.Graph, slot: str) -> Rows | None:
    """The part on rows; None if it needs more than O, the slot, and numbers."""
    scaled, averaged = _scaled(graph), outputs(graph)[1][slot]
    squares, factors = _only(graph, (row_mean_squares,)), _only(graph, (row_factors,))
    if scaled is None or squares is None or factors is None or factors.args[1] is not averaged:
        return None
    inputs = [{squares}, {factors}]
    names = [_names_behind(x, stop) for x, stop in zip((averaged, scaled[1]), inputs, strict=True)]
    read = (names[0] - {SLOT + slot}) | names[1]
    if read & {"g", "t"} or any(name.startswith(SLOT) for name in read):
        return None
    average = _function(graph, squares, averaged, lambda x: (x, {slot: x}))
    of_rows = _function(graph, factors, scaled[1], lambda x: (x, {}))
    return Rows(slot, average, of_rows, tuple(sorted(read)))


def _names_behind(end: Any, stop: set[fx.Node]) -> set[str]:
    """Names of the graph's inputs that a value depends on, other than through the nodes in `stop`."""
    behind = nodes_behind([end], lambda x: () if x in stop else x.all_input_nodes)
    return {str(x.target) for x in behind if x.op == "placeholder"}


def _function(graph: fx.Graph, given: fx.Node, end: Any, output: Callable[[Any], Any]) -> Update:
    """The part of the graph from the value `given`, which is the function's gradient, to `end`."""
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    part.graph_copy(graph, copies)
    (gradient,) = (x for x in part.nodes if x.op == "placeholder" and x.target == "g")
    copies[given].replace_all_uses_with(gradient)
    result = gradient if end is given else copies[end]
    part.output(output(result))
    part.eliminate_dead_code()
    return function_of(part)


def _goes_on_from_matrices(graph: fx.Graph, scaled: bool) -> bool:
    """Replaces the result for the matrices by the gradient; False if the update also reads the gradient or a slot."""
    product = _scaled(graph) if scaled else None
    result = product[0] if product is not None else _only(graph, OF_MATRICES)
    beside = nodes_behind([outputs(graph)[0]], lambda x: () if x is result else x.all_input_nodes)
    if result is None or any(str(x.target) == "g" or str(x.target).startswith(SLOT) for x in beside):
        return False
    (gradient,) = (x for x in graph.nodes if x.op == "placeholder" and x.target == "g")
    result.replace_all_uses_with(gradient)
    graph.output_node().args = ((outputs(graph)[0], {}),)
    return True


def _part(form: Rule, graph: fx.Graph, where: str, slots: tuple[Slot, ...]) -> Rule:
    graph.eliminate_dead_code()
    name = f"{form.name}, {where} its middle"
    return replace(form, name=name, update=function_of(graph), slots=slots, pointwise=True, matrix_weight=None)
