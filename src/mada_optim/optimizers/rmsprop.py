"""RMSprop as an optimizer of torch."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn


class RMSprop(HyperOptimizer):
    r"""Gradients over their running root mean square, as in torch.optim.

    .. math::
        v_t = \alpha v_{t-1} + (1-\alpha) g_t^2, \qquad u_t = \mu b_{t-1} + g_t / (\sqrt{v_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        alpha: Decay of the average of squared gradients, in [0, 1).
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        momentum: Decay of the momentum, in [0, 1).
        centered: 1 divides by the standard deviation, 0 by the root mean square; in [0, 1].
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
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
        lr: float | Tensor | str = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        momentum: float = 0.0,
        centered: float = 0.0,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="rmsprop",
            learn=learn,
            weight_decay=weight_decay,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            alpha=alpha,
            eps=eps,
            momentum=momentum,
            centered=centered,
        )
