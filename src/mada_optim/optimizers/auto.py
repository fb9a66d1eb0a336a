"""AutoMuon and AutoAdam, which learn the learning rate, so that you need not sweep it."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.beta_guard import Guard
from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn
from mada_optim.learning.learned_lr import LearnedLR
from mada_optim.optimizers.arguments import explained, given

#: The numbers are from trials on small networks, docs/inside/lab-notebook.md.
GUARD = Guard(ramp=100.0, least_beta2=0.99)
LEARNED_LR = LearnedLR()
START = '"auto": the initial learning rate is computed from the matrix shapes. A number, >= 0, is the initial one.'


@explained(
    "mada_matrix",
    params="Parameters, named parameters, or group dicts; a group's key `matrix` says which are hidden matrices.",
    lr=START,
    matrix_lr_ratio="Learning-rate multiplier of hidden matrices, >= 0.",
    guard="Keeps the betas in a safe range: beta1 rises as t / (t + 100), a beta2 below 0.99 is refused. None: they "
    "are used exactly as passed.",
)
class AutoMuon(HyperOptimizer):
    r"""Muon for hidden matrices and Adam for everything else; one learning rate for all, which is learned.

    .. math::
        u_t = \kappa\, O(\bar b_t) \;\text{on hidden matrices}, \qquad
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon) \;\text{elsewhere}, \qquad
        \theta_t = (1 - \alpha_t \lambda) \theta_{t-1} - \alpha_t u_t

    O is the polar factor of the Nesterov momentum (Muon: Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). The initial learning rate is computed from the matrix shapes and written
    into `group["lr"]`; schedulers work unchanged: `LearnedLR` learns a factor on the scheduled rate. `lr="auto"` is for
    training from scratch. To fine-tune, pass a small `lr`: the factor rises above 1 only as far as steps agree.

        opt = AutoMuon(param_groups(model))     # or model.named_parameters(), or model.parameters()

    `param_groups(model)` tells hidden matrices from embeddings and output layers by their modules.
    `named_parameters()` tells them by names and shapes, `parameters()` by shapes alone.
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
        nu: float = 0.0,
        learn: Learn = LEARNED_LR,
        matrix_lr_ratio: float = 2.0,
        guard: Guard | None = GUARD,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        share_matrices: Any = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="mada_matrix"))


#: Without Muon, beta1 is for hidden matrices too, and networks for text need it from the first steps: a shorter ramp.
GUARD = Guard(ramp=5.0, least_beta2=0.99)


@explained(
    "mada",
    lr=START,
    guard="Keeps the betas in a safe range: beta1 rises as t / (t + 5), a beta2 below 0.99 is refused. None: they are "
    "used exactly as passed.",
)
class AutoAdam(HyperOptimizer):
    r"""Adam with decoupled weight decay and a learned learning rate: `AutoMuon` without Muon.

    .. math::
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon), \qquad
        \theta_t = (1 - \alpha_t \lambda) \theta_{t-1} - \alpha_t u_t

    The initial learning rate is computed from the matrix shapes, and a factor on it is learned (`LearnedLR`). Cheaper
    than `AutoMuon` when batches are small.

        opt = AutoAdam(param_groups(model))
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
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="mada"))
