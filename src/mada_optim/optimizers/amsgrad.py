"""AMSGrad as an optimizer of torch."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.beta_guard import Guard
from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn


class AMSGrad(HyperOptimizer):
    r"""Adam with the running maximum of v.

    Source: Reddi et al., ICLR 2018.

    .. math::
        v^{\max}_t = \max(v^{\max}_{t-1}, v_t), \qquad u_t = \hat m_t / (\sqrt{\hat v^{\max}_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        guard: Keeps the betas in a safe range; None: they are used as they are.
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
        lr: float | Tensor | str = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        learn: Learn = (),
        guard: Guard | None = None,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="amsgrad",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
        )
