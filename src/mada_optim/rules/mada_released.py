"""MADA as its authors' published code computes it (github.com/amazon-science/mada_optimizer_search, revision 2beded8).

It reproduces published behavior; the default is `mada`. Its differences from `mada`:

* v and vbar start at 1e-15; n starts at g_1^2; the first difference is g_1, since g_0 = 0;
* n has no bias correction; m, v and vbar are divided by 1 - beta^t with the beta of this step, and the derivative goes
  through beta^t;
* vbar is a constant for the derivative;
* Lion's momentum is updated before the sign is taken;
* the intervals are narrower: beta2 can't exceed .99.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mada_optim.rule import Coefficients, Interval, Rule, Slot, Slots
from mada_optim.rules.adam import BETA1, BETA2
from mada_optim.rules.adan import BETA3
from mada_optim.rules.mada import GAMMA, LION, LION_BETAS, RHO, C
from mada_optim.rules.terms import ema, root, running_mean, stop_gradient, yogi_target


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2, beta3 = c["beta1"], c["beta2"], c["beta3"]
    rho, gamma = c["rho"], c["gamma"]

    d = g - s["g_prev"]
    square = (g + beta3 * d) ** 2
    target = c["c"] * square + (1 - c["c"]) * yogi_target(s["v"], square)

    m = ema(beta1, s["m"], g)
    n = ema(beta3, torch.where(t == 1, g**2, s["n"]), d)
    v = ema(beta2, s["v"], target)
    vbar = stop_gradient(running_mean(s["vbar"], v, t))
    l = ema(c["lion_beta2"], s["l"], g)

    mhat = m / (1 - beta1**t)
    vhat = (rho * v + (1 - rho) * vbar) / (1 - beta2**t)
    adaptive = (mhat + beta3 * n) / (root(vhat) + c["eps"])
    lion = torch.sign(ema(c["lion_beta1"], l, g))
    u = gamma * adaptive + (1 - gamma) * c["kappa"] * lion
    return u, {"m": m, "v": v, "vbar": vbar, "n": n, "g_prev": g, "l": l}


RULE = Rule(
    "mada_released",
    update,
    (
        replace(BETA1, interval=Interval(0.01, 0.99)),
        replace(BETA2, interval=Interval(0.501, 0.99), default=0.95),
        replace(BETA3, interval=Interval(0.0, 0.99), default=0.0),
        RHO,
        C,
        GAMMA,
    ),
    (
        Slot("m", "m"),
        Slot("v", "v", 1e-15, non_negative=True),
        Slot("vbar", r"\bar v", 1e-15, non_negative=True),
        Slot("n", "n"),
        Slot("g_prev", r"g_{t-1}"),
        Slot("l", r"\ell"),
    ),
    {"eps": 1e-6, **LION},
    decays=LION_BETAS,
)
