"""MADA, the optimizer of the paper, which learns six coefficients."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.beta_guard import Guard
from mada_optim.hyper_optimizer import HyperOptimizer, find_rule
from mada_optim.learning.banks import Learn
from mada_optim.optimizers.arguments import given
from mada_optim.rule import Rule

#: The coefficients that its rule must have.
COEFFICIENTS = ("beta1", "beta2", "beta3", "rho", "c", "gamma")


class MADA(HyperOptimizer):
    r"""Adam, AVGrad, Yogi, Adan and Lion in one update, whose six coefficients are learned during training.

    Source: Ozkara et al., "MADA: Meta-Adaptive Optimizers Through Hyper-Gradient Descent", ICML 2024,
    https://arxiv.org/abs/2401.08893.

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

    Each step moves the coefficients q = beta1, beta2, beta3, rho, c, gamma against their hypergradients
    -alpha < g_{t+1}, du_t / dq >: the next gradient times the derivative of the last update. With `learn=()`, the
    default values are Adam with decoupled weight decay, bit for bit. `python -m mada_optim.describe mada` prints the
    complete rule.

        opt = MADA(model.parameters(), lr=1e-3)
        loss_fn(model(x), y).backward()
        opt.step()
        opt.coefficients()      # {"beta1": 0.9, "beta2": 0.95, ...}, as the next step applies them

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the matrix shapes.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        beta3: Decay of the average of gradient differences, in [0, 1); 0 is none, Adan's is 0.92.
        rho: Second moment, in [0, 1]: 1 is Adam's, 0 is AVGrad's mean over all steps so far.
        c: Target of the second moment, in [0, 1]: 1 is Adam's, 0 is Yogi's.
        gamma: Update, in [0, 1]: 1 is the adaptive step, 0 is Lion's sign.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        rule: "mada"; "mada_released" or "mada_published" to reproduce the authors' code; or any `Rule` with these six
            coefficients.
        guard: Keeps the betas in a safe range. None: they are used exactly as passed.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest available one; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots. None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which you have sharded parameters by hand. None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is not allowed. The message names it, the allowed values and a remedy.
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
        super().__init__(**given(locals(), rule=_suited(rule)))


def _suited(rule: str | Rule) -> Rule:
    """The rule, which has all six coefficients. Raises ValueError if it lacks one."""
    chosen = find_rule(rule)
    missing = [q for q in COEFFICIENTS if q not in chosen.coefficient_names()]
    if missing:
        raise ValueError(
            f"rule={chosen.name!r}: expected a rule with the coefficients {', '.join(COEFFICIENTS)}, got one without "
            f"{', '.join(missing)}; use the optimizer of that name, or HyperOptimizer(params, rule={chosen.name!r})"
        )
    return chosen
