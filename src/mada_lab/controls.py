"""Controls, which show what MADA's hypergradients are worth.

Ways to learn coefficients that shouldn't help; and MADA with fixed coefficients whose steps are as large as another's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

import mada_optim
from mada_lab.errors import ConfigError
from mada_lab.record import read_run

SEED = 0  # of the shuffling: a run is a function of its configuration


class ShuffledSGD(Optimizer):
    """Gradient descent in which each tensor takes the gradient of another, scaled to what is usual for its own size.

    A permutation of the tensors is drawn at each step; it is a function of the number of the step.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        """Groups of one tensor each, all of one shape; `lr` per group."""
        super().__init__(params, defaults)
        for group in self.param_groups:
            group["number"] = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; there is no closure."""
        own = [(group, x) for group in self.param_groups for x in group["params"]]
        generator = torch.Generator().manual_seed(SEED + int(self.param_groups[0]["number"]))
        gradients = [x.grad.clone() for _, x in own]
        for (group, x), other in zip(own, torch.randperm(len(own), generator=generator).tolist(), strict=True):
            x.sub_(group["lr"] * gradients[other])
        for group in self.param_groups:
            group["number"] += 1


def factory(kind: str, rates: Sequence[float]) -> Callable[[list[Tensor]], Optimizer]:
    """What makes the optimizer of the coefficients, "negated" or "shuffled", with a learning rate for each of them."""

    def make(leaves: list[Tensor]) -> Optimizer:
        groups = [{"params": [x], "lr": rate} for x, rate in zip(leaves, rates, strict=True)]
        if kind == "shuffled":
            return ShuffledSGD(groups, {})
        return torch.optim.SGD(groups, lr=0.0, maximize=True)

    return make


class Traced(mada_optim.MADA):
    """MADA that also measures its steps: `update_rms`, of all parameters together, decay included; None before one."""

    update_rms: float | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step of MADA, to the bit."""
        before = self._weights()
        loss = super().step(closure)
        self.update_rms = rms([x - y for x, y in zip(self._weights(), before, strict=True)])
        return loss

    def _weights(self) -> list[Tensor]:
        return [p.detach().clone() for group in self.param_groups for p in group["params"]]


class Paced(Traced):
    """MADA that stretches each of its steps to the size that the same step had in another run, by `pace`."""

    #: Steps, and for each of them the other run's `update_rms` over its learning rate.
    pace: tuple[list[int], list[float]] | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, with a count of steps."""
        super().add_param_group(param_group)
        self.param_groups[-1]["paced_steps"] = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step of MADA; every weight then lies on the way from where it was to where MADA put it, or beyond."""
        before = self._weights()
        loss = super().step(closure)
        group = self.param_groups[0]
        group["paced_steps"] += 1
        if self.pace is None or not self.update_rms:
            return loss
        wanted = float(np.interp(group["paced_steps"], *self.pace)) * float(group["lr"])
        weights = (p for group in self.param_groups for p in group["params"])
        for p, start in zip(weights, before, strict=True):
            p.copy_(torch.lerp(start, p, wanted / self.update_rms))
        self.update_rms = wanted
        return loss

    def follow(self, folder: Path) -> None:
        """Takes the pace of the run in `folder`. Raises ConfigError if its record doesn't have one."""
        rows = [row for row in read_run(folder).rows if row.get("update_rms") and row.get("lr")]
        if not rows:
            what = "expected a record with update_rms, got none"
            raise ConfigError(f"pace, key pace_from={folder}: {what}; name a finished run of mada_traced")
        self.pace = [row["step"] for row in rows], [row["update_rms"] / row["lr"] for row in rows]


def rms(tensors: Sequence[Tensor]) -> float:
    """The root of the mean square of all elements."""
    squares = sum(float(x.double().square().sum()) for x in tensors)
    return (squares / max(sum(x.numel() for x in tensors), 1)) ** 0.5
