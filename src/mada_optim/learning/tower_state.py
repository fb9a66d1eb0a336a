"""Checks saved states of the optimizers inside HyperTorch, and reshapes them like the coefficients."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

#: The errors that optimizers raise for a state, or for options, that don't fit.
MISFITS = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)


def fitting(key: str, optimizer: Optimizer, saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state `saved` under `key` as `optimizer` can load it: a copy, in the shapes of its coefficients.

    Torch's optimizers load any state and share its tensors; a wrong state would fail in a later step. So it is compared
    with the state that the optimizer itself makes. The coefficients of version 0.1.0 had no dimension. Raises
    ValueError if it is the state of another optimizer, or of other coefficients.
    """
    try:
        trial = copy.deepcopy(optimizer)
        trial.load_state_dict(copy.deepcopy(dict(saved)))
        if hasattr(trial, "hyper_optimizers"):  # an optimizer of this library checks and copies it itself
            return saved
        loaded = trial.state_dict()
        _reshape(loaded["state"], _fresh(trial))
    except MISFITS as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"state dict, {key!r}: expected the state of {type(optimizer).__name__} for the same coefficients, got one "
            f"that it can't load ({reason}); make the learner with the optimizer that the state is of"
        ) from error
    return loaded


@torch.no_grad()
def _fresh(trial: Optimizer) -> dict[int, dict[str, Any]]:
    """The state after a first step, by the number of the parameter."""
    trial.state.clear()
    for p in (p for group in trial.param_groups for p in group["params"]):
        p.grad = torch.zeros_like(p)
    trial.step()
    fresh: dict[int, dict[str, Any]] = trial.state_dict()["state"]
    return fresh


def _reshape(states: Mapping[int, dict[str, Any]], fresh: Mapping[int, Mapping[str, Any]]) -> None:
    """Gives loaded tensors the shapes of fresh ones. Raises KeyError or RuntimeError where they don't fit.

    A loaded state may have more tensors: those that an optimizer makes at a later step.
    """
    for number, state in states.items():
        shapes = {name: x.shape for name, x in fresh[number].items() if isinstance(x, Tensor)}
        state.update({name: state[name].reshape(shape) for name, shape in shapes.items()})
