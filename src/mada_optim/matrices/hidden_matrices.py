"""Which parameters are hidden weight matrices, where the user doesn't say.

Orthogonalised momentum is for the weights between hidden layers. Embeddings and the last layer, whose rows belong to
tokens or classes, and vectors do better with a step per element (Jordan et al. 2024, Muon). An optimizer sees tensors
and, where it is given `model.named_parameters()`, their names.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mada_optim.graph.specialize import corners, specialize
from mada_optim.layouts import Layout, is_matrix, layout_by_shape, settled
from mada_optim.matrices import guess, names
from mada_optim.rule import Rule

FLAGS = "hidden_matrices"  # the key in a group of what was decided; `matrix` is the user's
LR_RATIO = "matrix_lr_ratio"  # the key of their learning rate, over the group's lr


def decided(rule: Rule, groups: Iterable[Mapping[str, Any]]) -> list[list[Layout]]:
    """What each group keeps under `FLAGS`; where a rule treats all parameters alike, the layout of each."""
    if rule.matrix_weight is not None:
        return hidden(groups)
    return [[layout_of(group, p) for p in group["params"]] for group in groups]


def hidden(groups: Iterable[Mapping[str, Any]]) -> list[list[Layout]]:
    """For each parameter of each group, the layout of its hidden weight matrices, False where it has none.

    A group's `matrix`, as `mada_optim.grouping.param_groups` gives it, says that its matrices are hidden, and where
    they are in a parameter (`Layout`), or False: that none is. For the others, `mada_optim.matrices.guess` has names
    and shapes alone.
    """
    groups = list(groups)
    guessed = iter(guess.hidden([pair for group in groups for pair in _named(group)]))
    return [[_hidden(group, name, p, next(guessed)) for name, p in _named(group)] for group in groups]


def _hidden(group: Mapping[str, Any], name: str, p: Tensor, guessed: bool) -> Layout:
    said, layout = group.get("matrix"), layout_of(group, p, name)
    if said is False or not is_matrix(p, layout):
        return False
    return layout if said is not None or guessed else False


def layout_of(group: Mapping[str, Any], p: Tensor, name: str = "") -> Layout:
    """The layout of a parameter, were it hidden: what its group says, or what its name and its shape do."""
    said: Layout | None = group.get("matrix")
    return settled(p, said or (True if names.is_convolution(names.path(name)) else layout_by_shape(p)))


def _named(group: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    params = group["params"]
    return zip(group.get("param_names", [""] * len(params)), params, strict=True)


def flags(rule: Rule, group: Mapping[str, Any]) -> list[Layout]:
    """The layout of each parameter that has the member for matrices, False for the others.

    Every parameter has one where the rule treats all alike: one matrix, unless the group says otherwise.
    """
    if rule.matrix_weight is None and (rule.pointwise or FLAGS not in group):
        return [True] * len(group["params"])
    own: list[Layout] = group[FLAGS]
    return own


def is_hidden(rule: Rule, group: Mapping[str, Any], parameter: int) -> Layout:
    """Of one parameter, what `flags` says of each."""
    return flags(rule, group)[parameter]


def seen(rule: Rule, group: Mapping[str, Any], layout: Layout) -> Mapping[str, Any]:
    """A group as its hidden weight matrices see it, with their own lr, or as its other tensors do: omega fixed at 0."""
    if rule.matrix_weight is None:
        return group
    if not layout:
        return {**group, rule.matrix_weight: 0.0}
    return group if group[LR_RATIO] == 1.0 else {**group, "lr": group[LR_RATIO] * group["lr"]}


def form(rule: Rule, group: Mapping[str, Any], learned: tuple[str, ...], layout: Layout) -> Rule:
    """What the rule comes to on them."""
    moving = tuple(q for q in learned if layout or q != rule.matrix_weight)
    return specialize(rule, corners(rule, seen(rule, group, layout), moving))
