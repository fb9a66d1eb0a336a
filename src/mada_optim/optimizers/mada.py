"""MADA, the optimizer of the paper, which learns six coefficients."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.beta_guard import Guard
from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn
from mada_optim.optimizers.arguments import explained, given
from mada_optim.registry import find_rule
from mada_optim.rule import Rule

#: The coefficients that its rule must have.
COEFFICIENTS = ("beta1", "beta2", "beta3", "rho", "c", "gamma")


@explained(
    "mada",
    rule='"mada"; "mada_released" or "mada_published" to reproduce the authors\' code; or any `Rule` with these six '
    "coefficients.",
)
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
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
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
