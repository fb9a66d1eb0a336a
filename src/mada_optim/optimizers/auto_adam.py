"""AutoAdam: Adam with a learning rate that needs no choice."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.beta_guard import Guard
from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn
from mada_optim.optimizers.auto_muon import LEARNED_LR

#: Without Muon hidden matrices have beta1 too, which networks for text want from the first steps on: a shorter ramp.
GUARD = Guard(ramp=5.0, least_beta2=0.99)


class AutoAdam(HyperOptimizer):
    r"""Adam with decoupled weight decay and a learning rate that needs no choice: `AutoMuon` without Muon.

    .. math::
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon), \qquad
        \theta_t = (1 - \alpha_t \lambda) \theta_{t-1} - \alpha_t u_t

    The learning rate starts where the shapes of the matrices say, and a factor on it is learned (`LearnedLR`). Cheaper
    than `AutoMuon` where batches are small.

        opt = AutoAdam(param_groups(model))

    Args:
        params: Parameters, named parameters, or group dicts.
        lr: "auto": the start is computed from the shapes; a number is the start, >= 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        beta3: Of MADA, which is Adam at beta3 = 0, rho = c = gamma = 1: decay of gradient differences, in [0, 1).
        rho: 1 is Adam's second moment, 0 is AVGrad's mean of it.
        c: 1 is Adam's target of the second moment, 0 is Yogi's.
        gamma: 1 is the adaptive step, 0 is Lion's sign.
        learn: What is learned, and how: a learner, names, (), or a list of them.
        guard: Keeps the betas in a safe range: beta1 rises as t / (t + 5), a beta2 below .99 is refused. None: the
            betas are used as they are.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = "auto",
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.3,
        *,
        beta3: float = 0.0,
        rho: float = 1.0,
        c: float = 1.0,
        gamma: float = 1.0,
        learn: Learn = LEARNED_LR,
        guard: Guard | None = GUARD,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="mada",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
            beta3=beta3,
            rho=rho,
            c=c,
            gamma=gamma,
        )
