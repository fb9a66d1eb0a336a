"""Controls for MADA: learners that shouldn't help, and fixed coefficients with steps as large as another run's."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mada_optim
from mada_lab.errors import ConfigError
from mada_lab.records.run_record import read_run
from mada_optim import HyperSGD, LearnedLR

SEED = 0  # of the shuffling: a run is a function of its configuration
PERIOD = 4096  # steps after which permutations repeat


class Along:
    """A learner that steps along the hypergradients, instead of against them."""

    def step(self, q: Tensor, h: Tensor, memory: Any, info: Any) -> tuple[Tensor, Any]:
        """One step."""
        return super().step(q, -h, memory, info)  # type: ignore[misc] # of the learner beside this class


class Negated(Along, HyperSGD):
    """The paper's hyper-step with the sign of the hypergradients changed."""


class NegatedLR(Along, LearnedLR):
    """A learned learning rate with the sign of its hypergradients changed."""


class Shuffled(HyperSGD):
    """The paper's hyper-step, by its own rates, with hypergradients permuted among the coefficients.

    The permutation is a function of the number of the step.
    """

    def step(self, q: Tensor, h: Tensor, memory: Any, info: Any) -> tuple[Tensor, Any]:
        """One step."""
        taken = info.steps.long() - max(self.start, 1)  # steps of this learner before this one
        drawn = permutations(h.shape[-1], h.device)[taken % PERIOD]
        return super().step(q, h.gather(-1, drawn), memory, info)


@functools.cache
def permutations(count: int, device: torch.device) -> Tensor:
    """A permutation of `count` for each of PERIOD steps, (PERIOD, count)."""
    drawn = [torch.randperm(count, generator=torch.Generator().manual_seed(SEED + i)) for i in range(PERIOD)]
    return torch.stack(drawn).to(device)


class Traced(mada_optim.MADA):
    """MADA that measures its last step: `update_rms`, over all parameters, decay included; None before the first."""

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
    """MADA that rescales each of its steps to the size that the same step had in another run."""

    #: Steps of the other run, and for each its `update_rms` over its learning rate.
    pace: tuple[list[int], list[float]] | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, with a count of steps."""
        super().add_param_group(param_group)
        self.param_groups[-1]["paced_steps"] = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step of MADA, with the change of all weights rescaled."""
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
            refusal = "expected a record with update_rms, got none"
            raise ConfigError(f"pace, key pace_from={folder}: {refusal}; name a finished run of mada_traced")
        self.pace = [row["step"] for row in rows], [row["update_rms"] / row["lr"] for row in rows]


def rms(tensors: Sequence[Tensor]) -> float:
    """The root of the mean square of all elements."""
    squares = sum(float(x.double().square().sum()) for x in tensors)
    return (squares / max(sum(x.numel() for x in tensors), 1)) ** 0.5
