"""MADA as its authors' training scripts computed it (amazon-science/mada_optimizer_search on GitHub, revision 2beded8).

It reproduces published runs; the default is `mada`. It differs from the published optimizer, `mada_released`, in one
point. That optimizer caches the gradient for the next step's difference without a copy, and the scripts zero the
gradient in place, so that the cached gradient is 0:

* d_t = g_t - 0 = g_t at every step, not g_t - g_{t-1}: v is an average of squares of (1 + beta3) g, and n one of
  gradients.

The scripts also take hypergradients from other gradients than those of the update: see `HyperOptimizer.observe`.
"""

import torch
from torch import Tensor

from mada_optim.rule import Coefficients, Rule, Slots
from mada_optim.rules import mada_released
from mada_optim.rules.terms import ema, root, running_mean, stop_gradient, yogi_target


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2, beta3 = c["beta1"], c["beta2"], c["beta3"]
    rho, gamma = c["rho"], c["gamma"]

    square = (g + beta3 * g) ** 2
    target = c["c"] * square + (1 - c["c"]) * yogi_target(s["v"], square)

    m = ema(beta1, s["m"], g)
    n = ema(beta3, torch.where(t == 1, g**2, s["n"]), g)
    v = ema(beta2, s["v"], target)
    vbar = stop_gradient(running_mean(s["vbar"], v, t))
    l = ema(c["lion_beta2"], s["l"], g)

    mhat = m / (1 - beta1**t)
    vhat = (rho * v + (1 - rho) * vbar) / (1 - beta2**t)
    adaptive = (mhat + beta3 * n) / (root(vhat) + c["eps"])
    lion = torch.sign(ema(c["lion_beta1"], l, g))
    u = gamma * adaptive + (1 - gamma) * c["kappa"] * lion
    return u, {"m": m, "v": v, "vbar": vbar, "n": n, "l": l}


RULE = Rule(
    "mada_published",
    update,
    mada_released.RULE.coefficients,
    tuple(slot for slot in mada_released.RULE.slots if slot.name != "g_prev"),
    mada_released.RULE.hyper_parameters,
    decays=mada_released.RULE.decays,
)
