"""Decides which parameters are hidden weight matrices, and how these and the others see their group.

Orthogonalized momentum is for the weights between hidden layers. Embeddings, the last layer and vectors do better with
a step per element (Jordan et al. 2024, Muon). An optimizer sees tensors and, if it is given `model.named_parameters()`,
their names.
"""

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from mada_optim.graph.specialize import Corners, corners
from mada_optim.layouts import Layout, is_matrix, layout_by_shape, settled
from mada_optim.matrices import guess, names
from mada_optim.rule import Rule

Group = MutableMapping[str, Any]
FLAGS = "hidden_matrices"  # key in a group of the decisions; the user's own key is `matrix`
LR_RATIO = "matrix_lr_ratio"  # key in a group of the factor on `lr` for its hidden matrices


def decided(rule: Rule, groups: Iterable[Mapping[str, Any]]) -> list[list[Layout]]:
    """The value of `FLAGS` in each group; for a rule that treats all parameters alike, the layout of each."""
    if rule.matrix_weight is not None:
        return hidden(groups)
    return [[layout_of(group, p) for p in group["params"]] for group in groups]


def hidden(groups: Iterable[Mapping[str, Any]]) -> list[list[Layout]]:
    """For each parameter of each group, the layout of its hidden weight matrices; False if it has none.

    A group's `matrix` decides for all its matrices. In groups without that key, `mada_optim.matrices.guess` decides by
    names and shapes.
    """
    groups = list(groups)
    guessed = iter(guess.hidden([pair for group in groups for pair in _named(group)]))
    return [[_hidden(group, name, p, next(guessed)) for name, p in _named(group)] for group in groups]


def _hidden(group: Mapping[str, Any], name: str, p: Tensor, guessed: bool) -> Layout:
    matrix, layout = group.get("matrix"), layout_of(group, p, name)
    if matrix is False or not is_matrix(p, layout):
        return False
    return layout if matrix is not None or guessed else False


def layout_of(group: Mapping[str, Any], p: Tensor, name: str = "") -> Layout:
    """The layout that a parameter would have as a hidden matrix: the group's `matrix`, or by name and shape."""
    matrix: Layout | None = group.get("matrix")
    return settled(p, matrix or (True if names.is_convolution(names.path(name)) else layout_by_shape(p)))


def _named(group: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    params = group["params"]
    return zip(group.get("param_names", [""] * len(params)), params, strict=True)


def flags(rule: Rule, group: Mapping[str, Any]) -> list[Layout]:
    """The layout of each parameter of a group to which the rule's term for matrices applies; False for the others.

    A rule that treats all parameters alike sees each as one matrix, unless the group says otherwise.
    """
    if rule.matrix_weight is None and (rule.pointwise or FLAGS not in group):
        return [True] * len(group["params"])
    layouts: list[Layout] = group[FLAGS]
    return layouts


def view(rule: Rule, group: Group, layout: Layout) -> MutableMapping[str, Any]:
    """A group as its parameters with this layout see it; reads the group at each access.

    Hidden matrices see the group itself, and their learning rate is `matrix_lr_ratio` times `lr`. Other tensors see a
    ratio of 1, and 0 in place of the coefficient that weighs the term for matrices.
    """
    if rule.matrix_weight is None or layout:
        return group
    return ChainMap({rule.matrix_weight: 0.0, LR_RATIO: 1.0}, group)


def fixed(rule: Rule, group: Group, learned: Iterable[str], layout: Layout) -> Corners:
    """The coefficients and hyper-parameters that are constants 0 or 1 for parameters with this layout."""
    moving = tuple(q for q in learned if layout or q != rule.matrix_weight)
    return corners(rule, view(rule, group, layout), moving)


def update_flags(rule: Rule, groups: list[dict[str, Any]], states: Mapping[Tensor, Any]) -> None:
    """Writes the decisions into each group in which no parameter has a state yet."""
    if not rule.pointwise:
        for group, flags in zip(groups, decided(rule, groups), strict=True):
            if not any(states.get(p) for p in group["params"]):
                group[FLAGS] = flags
