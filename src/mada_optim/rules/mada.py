"""MADA: Ozkara et al., ICML 2024 (arXiv 2401.08893): Adam, AVGrad, Yogi, Adan and Lion in one parameterized update.

Corners: Adam at beta3 = 0, c = 1, rho = 1, gamma = 1. From there, rho = 0 is AVGrad, c = 0 is Yogi, beta3 > 0 is Adan,
gamma = 0 is Lion.

Deviation from the paper: bias correction; the paper has none. Every average is divided by the same average of ones,
which is exact while a beta changes. For deviations from the authors' code, see `mada_released`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mada_optim.rule import UNIT, Coefficient, Coefficients, Rule, Slots
from mada_optim.rules.adam import BETA1, BETA2, MOMENTS
from mada_optim.rules.adan import BETA3, DIFFERENCES
from mada_optim.rules.avgrad import MEANS
from mada_optim.rules.lion import MOMENTUM
from mada_optim.rules.terms import difference, ema, root, running_mean, yogi_target

RHO = Coefficient(
    "rho", r"\rho", UNIT, 1.0, meaning="Second moment: 1 is Adam's, 0 is AVGrad's mean over all steps so far."
)
C = Coefficient("c", "c", UNIT, 1.0, meaning="Target of the second moment: 1 is Adam's, 0 is Yogi's.")
GAMMA = Coefficient("gamma", r"\gamma", UNIT, 1.0, meaning="Update: 1 is the adaptive step, 0 is Lion's sign.")

LION_BETAS = ("lion_beta1", "lion_beta2")
LION = {"lion_beta1": 0.95, "lion_beta2": 0.98, "kappa": 1.0}


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2, beta3 = c["beta1"], c["beta2"], c["beta3"]
    rho, gamma = c["rho"], c["gamma"]

    d = difference(g, s["g_prev"], t)
    square = (g + beta3 * d) ** 2
    target = c["c"] * square + (1 - c["c"]) * yogi_target(s["v"], square)

    m = ema(beta1, s["m"], g)
    n = ema(beta3, s["n"], d)
    v = ema(beta2, s["v"], target)
    vbar = running_mean(s["vbar"], v, t)

    w1 = ema(beta1, s["w1"], 1.0)
    w2 = ema(beta2, s["w2"], 1.0)
    w3 = ema(beta3, s["w3"], 1.0)
    wbar2 = running_mean(s["wbar2"], w2, t)

    vhat = rho * v / w2 + (1 - rho) * vbar / wbar2
    adaptive = (m / w1 + beta3 * n / w3) / (root(vhat) + c["eps"])
    lion = torch.sign(ema(c["lion_beta1"], s["l"], g))
    u = gamma * adaptive + (1 - gamma) * c["kappa"] * lion

    l = ema(c["lion_beta2"], s["l"], g)
    slots = {"m": m, "v": v, "vbar": vbar, "n": n, "g_prev": g, "l": l}
    return u, {**slots, "w1": w1, "w2": w2, "w3": w3, "wbar2": wbar2}


RULE = Rule(
    "mada",
    update,
    (BETA1, replace(BETA2, default=0.95), replace(BETA3, default=0.0), RHO, C, GAMMA),
    (*MOMENTS, *MEANS, *DIFFERENCES, MOMENTUM),
    {"eps": 1e-8, **LION},
    decays=LION_BETAS,
)
