"""HyperSGD, the hyper-step of the paper."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mada_optim.learning.learner import Learner, Memory, StepInfo, clipped
from mada_optim.learning.options import (
    NONE,
    AmountOfEach,
    Bounds,
    DecayOfEach,
    Limit,
    Scope,
    Start,
    Stop,
    names_given,
    only_of,
    settle,
)


@dataclass(frozen=True, init=False)
class HyperSGD(Learner):
    """Moves coefficients by SGD with momentum on their clipped hypergradients, as the paper does.

        z_t = momentum z_{t-1} + clip(h_t),    q_t = project(q_{t-1} - lr z_t)

    Hypergradients and momentum continue while a coefficient is at a bound, as in the authors' code.

    Source: Ozkara et al., ICML 2024 (arXiv 2401.08893), section 3.

        MADA(params, learn=HyperSGD("beta1", "beta2", lr=1e-3))

    Args:
        coefficients: Names of coefficients of the rule, or "lr", whose logarithm is learned; "all" for all of the
            rule's.
        names: The same as one value, as `dataclasses.replace` passes them.
        lr: Hyper learning rate, >= 0: one for all coefficients, or a dict by name. The rule declares the others: 5e-4
            for beta1 and beta2, 1e-1 for the other coefficients of the paper, 1e-2 for lr.
        momentum: Decay of the velocity z, in [0, 1): one for all coefficients, or a dict by name; 0 for the others.
        clip: Largest size of a hypergradient, >= 0: each is clipped to [-clip, clip], by the formula of
            `torch.nn.utils.clip_grad_norm_`. math.inf: no clipping.
        start: Number of applied steps before the first hyper-step.
        stop: Number of applied steps after which the coefficients stay, > start; None for no end.
        bounds: (low, high) by name, instead of the rule's intervals; for lr, of the factor on the lr that is set.
        scope: The parameters that share a coefficient: "global" (all, as in the paper), "group" or "tensor".
        rebound: At a bound, limits the outward part of the velocity to this multiple of the present hypergradient,
            >= 0. With 2, a coefficient leaves its bound at the second step after its hypergradient changes sign,
            whatever the momentum. math.inf: no limit.

    Raises:
        ValueError: A value is not allowed. The message names it, the allowed values and a remedy.
    """

    names: str | tuple[str, ...]
    lr: AmountOfEach
    momentum: DecayOfEach
    clip: Limit
    start: Start
    stop: Stop
    bounds: Bounds
    scope: Scope
    rebound: Limit
    may_give_nan: ClassVar[bool] = False

    def __init__(
        self,
        *coefficients: str,
        names: str | tuple[str, ...] = (),
        lr: AmountOfEach = NONE,
        momentum: DecayOfEach = 0.0,
        clip: Limit = 10.0,
        start: Start = 50,
        stop: Stop = None,
        bounds: Bounds = NONE,
        scope: Scope = "global",
        rebound: Limit = math.inf,
    ) -> None:
        object.__setattr__(self, "names", names_given("HyperSGD", coefficients, names))
        settle(self, locals())

    def init(self, q: Tensor, info: StepInfo) -> Memory:
        """Returns the velocity, zero."""
        only_of(info.names, "lr", self.lr)
        only_of(info.names, "momentum", self.momentum)
        return {"velocity": torch.zeros_like(q)}

    def step(self, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
        """One step of SGD with momentum."""
        lr, h = info.each(self.lr, info.rates), clipped(h, self.clip)
        momentum = info.each(self.momentum, 0.0)
        if isinstance(momentum, float) and not momentum:
            return q - lr * h, memory
        velocity = self._velocity(q, h, momentum * memory["velocity"], info)
        return q - lr * velocity, {"velocity": torch.where(info.moves.unsqueeze(-1), velocity, memory["velocity"])}

    def _velocity(self, q: Tensor, h: Tensor, past: Tensor, info: StepInfo) -> Tensor:
        """The new velocity, `past + h`, where `past` is momentum times the last one.

        It is clamped to finite numbers: after an infinite velocity, all later steps would be NaN.
        """
        if self.rebound < math.inf:
            most = self.rebound * h.abs()
            outward = ((q <= info.low) & (past > 0)) | ((q >= info.high) & (past < 0))
            past = torch.where(outward, torch.clamp(past, -most, most), past)
        largest = torch.finfo(h.dtype).max
        return torch.clamp(past + h, -largest, largest)
