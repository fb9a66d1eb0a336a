"""State dicts: what may be loaded, and in which dtype it arrives."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from torch import Tensor

from mada_optim.engine import eager
from mada_optim.spec import Rule

LEARNING = ("hypergradient", "hyper_velocity", "applied_steps")  # keys of a group, only where something is learned


def cloned(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group whose tensors are copies."""
    return {key: x.clone() if isinstance(x, Tensor) else x for key, x in group.items()}


def check(rule: Rule, groups: list[dict[str, Any]], state_dict: Mapping[str, Any], tower: bool) -> None:
    """Refuses the state of another rule, of another `learn`, or of tensors of other shapes.

    `tower` says whether an optimizer learns the coefficients, whose state must then be there.

    Raises:
        ValueError: Names the first difference, and what to do.
    """
    if tower and "hyper_optimizer" not in state_dict:
        raise ValueError(
            "state dict: expected the key 'hyper_optimizer', got none; "
            "load it into an optimizer without hyper_optimizer, or save state_dict() whole"
        )
    keys = (*rule.coefficient_names(), *LEARNING)
    for ours, theirs in zip(groups, state_dict["param_groups"], strict=False):
        _same("parameter group", _shapes(ours, keys), _shapes(theirs, keys))
    learning = "applied_steps" in groups[0]
    for p, state in _pairs(groups, state_dict):
        canvas = eager.canvas(p.detach()).to("meta")
        expected = eager.new_state(rule, canvas, eager.compute_dtype(canvas), learning)
        _same("state of a parameter", _shapes(expected, expected), _shapes(state, state))


def restored(groups: list[dict[str, Any]], state_dict: Mapping[str, Any]) -> dict[Tensor, dict[str, Tensor]]:
    """The saved state of each parameter, copied to the parameter's device in the dtype that it was saved in.

    `torch.optim.Optimizer.load_state_dict` rounds floating-point state to its parameter's dtype: with bf16 parameters
    a coefficient of .9995 would come back as 1.
    """
    return {
        p: {name: x.detach().clone().to(p.device) for name, x in state.items()}
        for p, state in _pairs(groups, state_dict)
    }


def _pairs(groups: list[dict[str, Any]], state_dict: Mapping[str, Any]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Each parameter with its saved state. A state dict numbers parameters in the order of the groups."""
    ours = chain.from_iterable(group["params"] for group in groups)
    keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    for p, key in zip(ours, keys, strict=False):
        if state_dict["state"].get(key):
            yield p, state_dict["state"][key]


def _shapes(tensors: Mapping[str, Any], keys: Iterable[str]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensors[key].shape) for key in keys if key in tensors}


def _same(where: str, ours: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]]) -> None:
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            expected, got = _described(ours.get(key)), _described(theirs.get(key))
            raise ValueError(
                f"state dict, {where}, {key!r}: expected {expected}, got {got}; "
                "load it into an optimizer of the same model, with the same rule and the same `learn`"
            )


def _described(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"a tensor of shape {shape}"
