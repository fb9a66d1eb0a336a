"""The hyper-step: how the learned coefficients move, given their hypergradients.

Vectors are 1-d, with one entry per learned coefficient in the rule's order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

HyperOptimizerFactory = Callable[[list[Tensor]], Optimizer]


@dataclass(frozen=True)
class Learner:
    """Clip, hyper-step and projection, all pure (MADA, section 3: SGD with momentum on the coefficients).

    Attributes:
        lr: Hyper learning rates, >= 0.
        momentum: Weights of the past in the velocity, in [0, 1).
        low: Lower ends of the intervals.
        high: Upper ends of the intervals.
        limit: Each hypergradient is clipped to [-limit, limit].
        start: Number of applied steps before the first hyper-step.
    """

    lr: Tensor
    momentum: Tensor
    low: Tensor
    high: Tensor
    limit: float
    start: int

    def may_step(self, h: Tensor, applied_steps: Tensor) -> Tensor:
        """A 0-d boolean: are there enough steps behind, one at least, and is every hypergradient finite?"""
        return (applied_steps >= max(self.start, 1)) & torch.isfinite(h).all()

    def clip(self, h: Tensor) -> Tensor:
        """Each hypergradient on its own, to [-limit, limit]."""
        return torch.clamp(h, -self.limit, self.limit)

    def step(self, q: Tensor, h: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients and the velocity after one step of SGD with momentum along `h`."""
        velocity = self.momentum * velocity + h
        return q - self.lr * velocity, velocity

    def project(self, q: Tensor) -> Tensor:
        """The nearest point inside the intervals."""
        return torch.clamp(q, self.low, self.high)


class ExternalLearner:
    """Any `torch.optim.Optimizer` in the place of `Learner.step`; one that is a HyperOptimizer makes a tower.

    Args:
        factory: Makes the optimizer from the list of coefficient tensors (0-d leaves).
        coefficients: The tensors it is given, moved in place by `step`.
    """

    def __init__(self, factory: HyperOptimizerFactory, coefficients: list[Tensor]) -> None:
        self.coefficients = coefficients
        self.optimizer = factory(coefficients)

    def step(self, h: Tensor, where: Tensor) -> Tensor:
        """Moves the coefficients along `h`; where the 0-d boolean `where` is false, the optimizer's state stays.

        State that the optimizer makes at a first step which doesn't count is left at zero.

        Returns:
            The coefficients it proposes, 1-d.
        """
        before = {key: x.clone() for key, x in self._state().items()}
        for x, derivative in zip(self.coefficients, torch.where(where, h, 0.0).unbind(), strict=True):
            x.grad = derivative.clone()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for key, x in self._state().items():
            x.copy_(torch.where(where.to(x.device), x, before.get(key, torch.zeros_like(x))))
        return torch.stack(self.coefficients)

    def _state(self) -> dict[tuple[int, str], Tensor]:
        return {
            (i, name): x
            for i, q in enumerate(self.coefficients)
            for name, x in self.optimizer.state.get(q, {}).items()
            if isinstance(x, Tensor)
        }
