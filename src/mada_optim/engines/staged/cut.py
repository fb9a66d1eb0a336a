"""A rule of matrices cut in three, of which the outer parts are pointwise, and have loops as any pointwise rule has.

    head     (g, s) -> (x, s')     of Muon: the momentum, and x, what it would be with g once more
    middle   x -> O                of whole matrices: one of `mada_optim.matrices.polar_factor`
    tail     O -> u                of Muon: kappa O

Both parts are read from the rule's own graph. A rule whose update needs more than O after the cut has none.
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
    """The three parts.

    Attributes:
        head: A rule whose update is what `middle` takes, with the slots of the whole.
        middle: What is of whole matrices.
        tail: A rule without slots, whose gradient is what `middle` gives.
    """

    head: Rule
    middle: Callable[[Tensor], Tensor]
    tail: Rule


@functools.lru_cache(maxsize=256)
def cut(form: Rule) -> Stages | None:
    """The parts of what is left of a rule; None where it isn't pointwise in another way than this."""
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
    """The one operation that isn't pointwise, if it is one."""
    found = [x for x in graph.nodes if x.target in OF_MATRICES]
    return found[0] if len(found) == 1 else None


def _goes_on_from_middle(graph: fx.Graph) -> bool:
    """Puts the gradient where the middle was, as long as the update reads neither it nor a slot beside that."""
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
