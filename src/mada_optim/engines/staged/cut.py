"""Cuts a rule that orthogonalizes into two pointwise parts, and the operation on matrices between them.

    head     (g, s) -> (x, s')     Muon: the momentum, and x, the momentum with g once more
    middle   x -> O                on whole matrices: one of `mada_optim.matrices.polar_factor`
    tail     O -> u                Muon: kappa O

Both parts are taken from the rule's graph. A rule whose update needs more than O after the cut can't be cut.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, fx

from mada_optim.graph.specialize import SLOT, UNTRACEABLE, function_of, nodes_behind, outputs, trace
from mada_optim.matrices.polar_factor import OF_MATRICES
from mada_optim.rule import Rule, Slot


@dataclass(frozen=True, eq=False)
class Stages:
    """The three parts."""

    head: Rule  # its update is the middle's argument; it has all slots
    middle: Callable[[Tensor], Tensor]  # the operation on whole matrices
    tail: Rule  # has no slots; its gradient is the middle's result


@functools.lru_cache(maxsize=256)
def cut(form: Rule) -> Stages | None:
    """The parts of a rule's form; None if it isn't pointwise in another way."""
    try:
        before, after = trace(form), trace(form)
    except UNTRACEABLE:
        return None
    middle = _middle(before)
    slots = outputs(before)[1]
    if middle is None or middle in nodes_behind(slots.values()) or not _goes_on_from_middle(after):
        return None
    before.output_node().args = ((middle.args[0], slots),)
    head, tail = _part(form, before, "before", form.slots), _part(form, after, "after", ())
    return Stages(head, middle.target, tail)  # type: ignore[arg-type]


def _middle(graph: fx.Graph) -> fx.Node | None:
    """The only operation that isn't pointwise; None if there are several, or none."""
    middles = [x for x in graph.nodes if x.target in OF_MATRICES]
    return middles[0] if len(middles) == 1 else None


def _goes_on_from_middle(graph: fx.Graph) -> bool:
    """Replaces the middle by the gradient; False if the update also reads the gradient or a slot."""
    middle = _middle(graph)
    beside = nodes_behind([outputs(graph)[0]], lambda x: () if x is middle else x.all_input_nodes)
    if middle is None or any(str(x.target) == "g" or str(x.target).startswith(SLOT) for x in beside):
        return False
    (gradient,) = (x for x in graph.nodes if x.op == "placeholder" and x.target == "g")
    middle.replace_all_uses_with(gradient)
    graph.output_node().args = ((outputs(graph)[0], {}),)
    return True


def _part(form: Rule, graph: fx.Graph, where: str, slots: tuple[Slot, ...]) -> Rule:
    graph.eliminate_dead_code()
    name = f"{form.name}, {where} its middle"
    return replace(form, name=name, update=function_of(graph), slots=slots, pointwise=True, matrix_weight=None)
