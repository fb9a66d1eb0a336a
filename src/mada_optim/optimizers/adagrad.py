"""AdaGrad as an optimizer of torch."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn


class AdaGrad(HyperOptimizer):
    r"""A learning rate per element that falls with the sum of its squared gradients.

    Source: Duchi et al., JMLR 2011.

    .. math::
        G_t = G_{t-1} + g_t^2, \qquad u_t = g_t / (\sqrt{G_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        lr_decay: lr falls as 1 / (1 + (t - 1) lr_decay), >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        initial_accumulator_value: What the sum of squares starts at, >= 0.
        eps: Added to the denominator, >= 0.
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
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        *,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="adagrad",
            learn=learn,
            weight_decay=weight_decay,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            lr_decay=lr_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
