"""Whether a saved state fits a model and an optimizer: looked into before either is touched."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from mada_lab.numerics import first_not_finite
from mada_lab.packing import Tensors, pack
from mada_optim import HyperOptimizer

SMALL = 64  # elements that a state beside a parameter's slots may have: a step count, a vector of coefficients


def require_fit(state: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> None:
    """Refuses a state of other names, shapes or types, or with numbers that no training leaves.

    Raises:
        ValueError: Names the first difference.
        KeyError, TypeError, AttributeError, IndexError: The state is of quite another kind.
    """
    ours = model.state_dict()
    _require(list(ours) == list(state["model"]), "model", ", ".join(ours), ", ".join(state["model"]))
    for name, x in ours.items():
        _require_alike(f"model {name}", x, state["model"][name])
    _require_optimizer(state["optimizer"], optimizer)
    tensors: Tensors = {}
    pack(state, tensors)
    strange = first_not_finite(tensors)
    _require(strange is None, str(strange), "finite numbers", "others")


def _require_optimizer(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    ours = optimizer.state_dict()["param_groups"]
    members = [[group["params"] for group in groups] for groups in (ours, saved["param_groups"])]
    _require(members[0] == members[1], "optimizer groups", str(members[0]), str(members[1]))
    params = dict(enumerate(chain.from_iterable(group["params"] for group in optimizer.param_groups)))
    for index, slots in saved["state"].items():
        for name, x in slots.items():
            fits = x.shape == params[index].shape or (x.dim() <= 1 and x.numel() <= SMALL)
            _require(fits, f"optimizer {index} {name}", f"{tuple(params[index].shape)}", f"{tuple(x.shape)}")
    if isinstance(optimizer, HyperOptimizer):
        _require_coefficients(saved["param_groups"], optimizer)


def _require_coefficients(groups: list[Mapping[str, Any]], optimizer: HyperOptimizer) -> None:
    for group in groups:
        for name in optimizer.learned:
            low, high, x = optimizer.intervals[name].low, optimizer.intervals[name].high, float(group[name])
            _require(low <= x <= high, f"coefficient {name}", f"a number in [{low}, {high}]", f"{x}")


def _require_alike(name: str, ours: Tensor, theirs: Tensor) -> None:
    expected, got = f"{tuple(ours.shape)} {ours.dtype}", f"{tuple(theirs.shape)} {theirs.dtype}"
    _require(expected == got, name, expected, got)


def _require(condition: bool, name: str, expected: str, got: str) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected[:200]}, got {got[:200]}")
