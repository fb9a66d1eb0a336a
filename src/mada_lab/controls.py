"""Ways to learn coefficients that shouldn't help, which show what the hypergradient is worth."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

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
