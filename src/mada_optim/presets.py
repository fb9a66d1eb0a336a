"""MADA, which learns the paper's six coefficients, and AutoMuon and AutoAdam, which need no learning rate."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.guard import Guard
from mada_optim.hyper.banks import Learn
from mada_optim.hyper.hyper_sgd import HyperSGD
from mada_optim.hyper.learned_lr import LearnedLR
from mada_optim.optim import HyperOptimizer
from mada_optim.spec import Rule

#: The intervals of the authors' code.
RELEASED_BOUNDS = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99), "beta3": (0.0, 0.99)}

#: The paper's GPT-2 runs: `MADA(params, lr=6e-4, weight_decay=0.1, **PAPER_GPT2)`.
PAPER_GPT2: dict[str, Any] = {
    "betas": (0.9, 0.95),
    "eps": 1e-6,
    "beta3": 0.0,
    "rho": 0.6,
    "c": 1.0,
    "gamma": 1.0,
    "learn": HyperSGD(
        "all",
        lr={"beta1": 5e-4, "beta2": 5e-4, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-1},
        momentum=0.0,
        clip=10.0,
        start=50,
        bounds=RELEASED_BOUNDS,
    ),
}

#: The paper's Shakespeare runs: `MADA(params, lr=1e-3, weight_decay=0.1, **PAPER_SHAKESPEARE)`. They start at Adam's
#: second moment, rho = 1, and learn from the first step on, gamma without momentum.
PAPER_SHAKESPEARE: dict[str, Any] = {
    **PAPER_GPT2,
    "eps": 1e-8,
    "rho": 1.0,
    "learn": HyperSGD(
        "all",
        lr=2.5e-3,
        momentum={"beta1": 0.5, "beta2": 0.5, "beta3": 0.5, "rho": 0.5, "c": 0.5, "gamma": 0.0},
        clip=10.0,
        start=0,
        bounds=RELEASED_BOUNDS,
    ),
}

#: What `AutoMuon` and `AutoAdam` learn.
LEARNED_LR = LearnedLR()

#: How `AutoMuon` and `AutoAdam` keep their betas in a safe range; the numbers are from trials on small networks,
#: docs/lab-notebook.md. Without Muon hidden matrices have beta1, which networks for text want from the first steps on.
MUON_GUARD, ADAM_GUARD = Guard(ramp=100.0, least_beta2=0.99), Guard(ramp=5.0, least_beta2=0.99)


class MADA(HyperOptimizer):
    r"""MADA: Adam, AVGrad, Yogi, Adan and Lion in one update, whose six coefficients are learned during training.

    Source: Ozkara et al., ICML 2024, https://arxiv.org/abs/2401.08893.

    .. math::
        \begin{aligned}
        d_t &= g_t - g_{t-1}, \qquad \hat g_t = g_t + \beta_3 d_t \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad n_t = \beta_3 n_{t-1} + (1-\beta_3) d_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) \bigl[ c\, \hat g_t^2 + (1-c) (v_{t-1} + \hat g_t^2\,
               \mathrm{sign}(\hat g_t^2 - v_{t-1})) \bigr], \qquad \bar v_t = \tfrac{t-1}{t} \bar v_{t-1}
               + \tfrac1t v_t \\
        u_t &= \gamma\, \frac{\hat m_t + \beta_3 \hat n_t}{\sqrt{\rho \hat v_t + (1-\rho) \hat{\bar v}_t} + \epsilon}
               + (1-\gamma)\, \mathrm{sign}(0.95\, l_{t-1} + 0.05\, g_t) \\
        \theta_t &= (1 - \alpha \lambda) \theta_{t-1} - \alpha u_t
        \end{aligned}

    Each coefficient q of beta1, beta2, beta3, rho, c, gamma is moved against its hypergradient, the next gradient
    times the derivative of the last update: -alpha < g_{t+1}, du_t / dq >. `python -m mada_optim.describe mada` prints
    all of it. With nothing learned, the values given here are Adam with decoupled weight decay, bit for bit.

        opt = MADA(model.parameters(), lr=1e-3)
        loss_fn(model(x), y).backward()
        opt.step()
        opt.coefficients()      # {"beta1": 0.9, "beta2": 0.95, ...}, as the next step applies them

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        beta3: Decay of the average of gradient differences, in [0, 1); 0 is none, Adan's is .92.
        rho: In [0, 1]; 1 is Adam's second moment, 0 is AVGrad's mean of all of them.
        c: In [0, 1]; 1 is Adam's target of the second moment, 0 is Yogi's.
        gamma: In [0, 1]; 1 is the adaptive step, 0 is Lion's sign.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        rule: "mada"; "mada_released" or "mada_published" compute what the authors' code does; or any `Rule` with these
            coefficients.
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
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        beta3: float = 0.0,
        rho: float = 1.0,
        c: float = 1.0,
        gamma: float = 1.0,
        learn: Learn = "all",
        rule: str | Rule = "mada",
        guard: Guard | None = None,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rule,
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
        guard: Guard | None = MUON_GUARD,
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
        guard: Guard | None = ADAM_GUARD,
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
