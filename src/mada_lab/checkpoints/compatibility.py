"""Checks that a saved tree fits a model and an optimizer, before either is changed."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from mada_lab.checkpoints.tree import Tensors, pack
from mada_lab.compute.finite import first_not_finite
from mada_optim import HyperOptimizer
from mada_optim.checks import intervals, learned_names
from mada_optim.rule import option_key
from mada_optim.sharding import dtensors

SMALL = 64  # elements that a state other than a slot may have: a step count, a vector of coefficients

NUMBER = (float, int)
PLAIN = {"seconds": NUMBER, "looked": (bool,), "digest": (str,), "device": (str,), "config": (dict,)}
LOSSES = ("train_loss", "val_loss", "best_val_loss", "val_accuracy")
PLAIN_STATE = {"peak": NUMBER, "lr": NUMBER, **dict.fromkeys(LOSSES, (*NUMBER, type(None)))}


def require_fit(tree: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> None:
    """Refuses a tree with other names, shapes or types, or with numbers that training never leaves.

    Tensors may be outlines, on the device "meta"; `require_finite` checks their numbers once they are read.

    Raises:
        ValueError: Names the first difference.
        KeyError, TypeError, AttributeError, IndexError: The tree has another structure.
    """
    state = tree["state"]
    for values, kinds in ((tree, PLAIN), ({"val_accuracy": None, **state}, PLAIN_STATE)):
        for name, kind in kinds.items():
            _require(type(values[name]) in kind, name, " or ".join(x.__name__ for x in kind), repr(values[name]))
    _require({*state["skips"]} == {"total", "in_a_row"}, "skips", "total, in_a_row", ", ".join(state["skips"]))
    _require(all(type(x) is int for x in state["skips"].values()), "skips", "integers", repr(state["skips"]))
    require_alike("model", model.state_dict(), state["model"])
    _require_optimizer(state["optimizer"], optimizer)
    require_finite(state)


def require_finite(state: Any) -> None:
    """Refuses numbers that aren't finite, in whole tensors and this process's shards. Raises as `require_fit`."""
    tensors: Tensors = {}
    pack(state, tensors)
    name = first_not_finite({name: dtensors.local(x) for name, x in tensors.items() if not x.is_meta})
    _require(name is None, str(name), "finite numbers", "others")


def require_alike(name: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Refuses tensors with other names, shapes or types than ours. Raises as `require_fit`."""
    _require(list(ours) == list(theirs), name, ", ".join(ours), ", ".join(theirs))
    for key, x in ours.items():
        expected, got = f"{tuple(x.shape)} {x.dtype}", f"{tuple(theirs[key].shape)} {theirs[key].dtype}"
        _require(expected == got, f"{name} {key}", expected, got)


def _require_optimizer(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    ours = optimizer.state_dict()["param_groups"]
    members = [[group["params"] for group in groups] for groups in (ours, saved["param_groups"])]
    _require(members[0] == members[1], "optimizer groups", str(members[0]), str(members[1]))
    for mine, theirs in zip(ours, saved["param_groups"], strict=True):
        _require(set(theirs) <= set(mine), "optimizer group", ", ".join(mine), ", ".join(map(str, theirs)))
    params = dict(enumerate(chain.from_iterable(group["params"] for group in optimizer.param_groups)))
    for index, slots in saved["state"].items():
        shape = params[index].shape
        for name, x in slots.items():
            for slot in _leaves(x):
                fits = _fits(slot, shape, isinstance(optimizer, HyperOptimizer))
                _require(fits, f"optimizer {index} {name}", f"{tuple(shape)}", f"{tuple(slot.shape)}")
    if isinstance(optimizer, HyperOptimizer):
        _require_coefficients(saved["param_groups"], optimizer)


def _leaves(slot: Any) -> Iterator[Tensor]:
    """The tensors of a slot, which may be a list: SOAP has a matrix for each dimension. Numbers are left out."""
    if isinstance(slot, list):
        yield from chain.from_iterable(map(_leaves, slot))
    elif type(slot) not in (int, float):
        yield slot


def _fits(slot: Tensor, shape: torch.Size, is_ours: bool) -> bool:
    """Whether a parameter of this shape may have such a slot; optimizers of others have some along its dimensions."""
    is_vector = slot.dim() <= 1 and slot.numel() <= max(SMALL, shape.numel())  # Prodigy flattens its slots
    return slot.shape == shape or is_vector or (not is_ours and {*slot.shape} <= {1, *shape})


def _require_coefficients(groups: list[Mapping[str, Any]], optimizer: HyperOptimizer) -> None:
    for learner in optimizer.learners:
        names = learned_names(optimizer.rule, learner.names)
        for name, interval in intervals(optimizer.rule, learner.bounds, names).items():
            for x in (float(group[option_key(name)]) for group in groups):
                fits = interval.low <= x <= interval.high
                _require(fits, f"coefficient {name}", f"a number in [{interval.low}, {interval.high}]", f"{x}")


def _require(condition: bool, name: str, expected: str, got: str) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected[:200]}, got {got[:200]}")
