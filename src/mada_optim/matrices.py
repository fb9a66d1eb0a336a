"""Which parameters are hidden weight matrices, where the user doesn't say.

Orthogonalised momentum is for the weights between hidden layers. Embeddings and the last layer, whose rows belong to
tokens or classes, and vectors do better with a step per element (Jordan et al. 2024, Muon). An optimizer sees tensors
and, where it is given `model.named_parameters()`, their names.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mada_optim import guess
from mada_optim.spec import Rule
from mada_optim.specialize import corners, specialize

FLAGS = "hidden_matrices"  # the key in a group of what was decided; `matrix` is the user's
LR_RATIO = "matrix_lr_ratio"  # the key of their learning rate, over the group's lr


def hidden(groups: Iterable[Mapping[str, Any]]) -> list[list[bool]]:
    """For each parameter of each group, whether it is a hidden weight matrix.

    A group that says `matrix=True` or `matrix=False`, as those of `mada_optim.param_groups` do, has its matrices so or
    none. For the others, names and shapes are all there is (`mada_optim.guess`).
    """
    groups = list(groups)
    guessed = iter(guess.hidden([pair for group in groups for pair in _named(group)]))
    return [[_hidden(group, p, next(guessed)) for p in group["params"]] for group in groups]


def _hidden(group: Mapping[str, Any], p: Tensor, guessed: bool) -> bool:
    said = group.get("matrix")
    return is_matrix(p) and (said if isinstance(said, bool) else guessed)


def _named(group: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    params = group["params"]
    return zip(group.get("param_names", [""] * len(params)), params, strict=True)


def is_matrix(p: Tensor) -> bool:
    """Whether a parameter is more than a row or a column."""
    return p.ndim >= 2 and p.shape[0] > 1 and p.numel() > p.shape[0] and not p.is_complex()


def flags(rule: Rule, group: Mapping[str, Any]) -> list[bool]:
    """Whether each parameter has the member for matrices; so has every one where the rule treats all alike."""
    own: list[bool] = [True] * len(group["params"]) if rule.matrix_weight is None else group[FLAGS]
    return own


def is_hidden(rule: Rule, group: Mapping[str, Any], parameter: int) -> bool:
    """Of one parameter, what `flags` says of each."""
    return flags(rule, group)[parameter]


def seen(rule: Rule, group: Mapping[str, Any], is_matrix: bool) -> Mapping[str, Any]:
    """A group as its hidden weight matrices see it, with their own lr, or as its other tensors do: omega fixed at 0."""
    if rule.matrix_weight is None:
        return group
    if not is_matrix:
        return {**group, rule.matrix_weight: 0.0}
    return group if group[LR_RATIO] == 1.0 else {**group, "lr": group[LR_RATIO] * group["lr"]}


def form(rule: Rule, group: Mapping[str, Any], learned: tuple[str, ...], is_matrix: bool) -> Rule:
    """What the rule comes to on them."""
    moving = tuple(q for q in learned if is_matrix or q != rule.matrix_weight)
    return specialize(rule, corners(rule, seen(rule, group, is_matrix), moving))
