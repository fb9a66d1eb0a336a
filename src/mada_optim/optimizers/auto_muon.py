"""AutoMuon: Muon and Adam with a learning rate that needs no choice."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.beta_guard import Guard
from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn
from mada_optim.learning.learned_lr import LearnedLR

#: The numbers are from trials on small networks, docs/inside/lab-notebook.md.
GUARD = Guard(ramp=100.0, least_beta2=0.99)
LEARNED_LR = LearnedLR()


class AutoMuon(HyperOptimizer):
    r"""Muon for hidden matrices, Adam for everything else, and one learning rate for all, which needs no choice.

    .. math::
        u_t = \kappa\, O(\bar b_t) \;\text{on hidden matrices}, \qquad
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon) \;\text{elsewhere}, \qquad
        \theta_t = (1 - \alpha_t \lambda) \theta_{t-1} - \alpha_t u_t

    O is the polar factor of the Nesterov momentum (Jordan et al. 2024). The learning rate starts where the shapes of
    the matrices say, and a factor on it is learned from the way that the weights go (`LearnedLR`). Schedulers work
    unchanged: the start is in `group["lr"]`. `lr="auto"` is for training from scratch; for trained weights, choose a
    small `lr`, which rises only as far as steps agree.

        opt = AutoMuon(param_groups(model))     # or model.named_parameters(), or model.parameters()

    `param_groups(model)` tells hidden matrices from embeddings and output layers by their modules.
    `named_parameters()` guesses by names and shapes, `parameters()` by shapes alone.

    Args:
        params: Parameters, named parameters, or group dicts; a group's key `matrix` says which are hidden matrices.
        lr: "auto": the start is computed from the shapes; a number is the start, >= 0.
        betas: (beta1, beta2) of Adam, each in [0, 1).
        eps: Added to Adam's denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        beta3: Of MADA, which is Adam at beta3 = 0, rho = c = gamma = 1: decay of gradient differences, in [0, 1).
        rho: 1 is Adam's second moment, 0 is AVGrad's mean of it.
        c: 1 is Adam's target of the second moment, 0 is Yogi's.
        gamma: 1 is the adaptive step, 0 is Lion's sign.
        omega: Of hidden matrices, in [0, 1]: 1 is Muon's step, 0 is that of all else.
        learn: What is learned, and how: a learner, names, (), or a list of them.
        matrix_lr_ratio: Learning rate of hidden matrices over `lr`, >= 0.
        guard: Keeps the betas in a safe range: beta1 rises as t / (t + 100), a beta2 below .99 is refused. None: the
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
        omega: float = 1.0,
        learn: Learn = LEARNED_LR,
        matrix_lr_ratio: float = 2.0,
        guard: Guard | None = GUARD,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="mada_matrix",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            matrix_lr_ratio=matrix_lr_ratio,
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
            omega=omega,
        )
