"""AVGrad: Ozkara et al., ICML 2024 (arXiv 2401.08893): the running mean of v instead of AMSGrad's running maximum.

The mean has a derivative in v at every step; the maximum has none where it keeps its old value.

Deviation: bias correction; the paper has none. m is divided by its average of ones, the mean of v by the mean of v's
averages of ones.
"""

from torch import Tensor

from mada_optim.rule import Coefficients, Rule, Slot, Slots
from mada_optim.rules.adam import BETA1, BETA2, MOMENTS
from mada_optim.rules.terms import ema, root, running_mean

MEANS = (Slot("vbar", r"\bar v", non_negative=True), Slot("wbar2", r"\bar w_2", scalar=True))


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2 = c["beta1"], c["beta2"]
    m = ema(beta1, s["m"], g)
    v = ema(beta2, s["v"], g**2)
    vbar = running_mean(s["vbar"], v, t)
    w1 = ema(beta1, s["w1"], 1.0)
    w2 = ema(beta2, s["w2"], 1.0)
    wbar2 = running_mean(s["wbar2"], w2, t)
    u = (m / w1) / (root(vbar / wbar2) + c["eps"])
    return u, {"m": m, "v": v, "vbar": vbar, "w1": w1, "w2": w2, "wbar2": wbar2}


RULE = Rule("avgrad", update, (BETA1, BETA2), (*MOMENTS, *MEANS), {"eps": 1e-8})
