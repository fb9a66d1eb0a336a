"""Adan: Xie, Zhou, Li, Lin and Yan, arXiv 2208.06677, algorithm 1, as its authors' code reads it.

beta3 is both the decay of the averaged difference n and the weight of the difference in the extrapolation (in the
paper's letters, which weigh the new: 1 - beta_2). The authors' tuple (.98, .92, .99) is (beta1, beta3, beta2) here.

Deviation: bias correction by averages of ones, equal to theirs when no beta changes.
"""

from dataclasses import replace

from torch import Tensor

from mada_optim.rule import DECAY, Coefficient, Coefficients, Interval, Rule, Slot, Slots
from mada_optim.rules.adam import BETA1, BETA2, MOMENTS
from mada_optim.rules.terms import difference, ema, root

BETA3 = Coefficient(
    "beta3",
    r"\beta_3",
    Interval(0.0, 0.999),
    0.92,
    DECAY,
    meaning="Decay of the average of gradient differences, and the weight of that average in the update.",
)

DIFFERENCES = (Slot("n", "n"), Slot("g_prev", r"g_{t-1}"), Slot("w3", r"w_3", scalar=True))


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2, beta3 = c["beta1"], c["beta2"], c["beta3"]
    d = difference(g, s["g_prev"], t)
    m = ema(beta1, s["m"], g)
    n = ema(beta3, s["n"], d)
    v = ema(beta2, s["v"], (g + beta3 * d) ** 2)
    w1 = ema(beta1, s["w1"], 1.0)
    w2 = ema(beta2, s["w2"], 1.0)
    w3 = ema(beta3, s["w3"], 1.0)
    u = (m / w1 + beta3 * n / w3) / (root(v / w2) + c["eps"])
    return u, {"m": m, "v": v, "n": n, "g_prev": g, "w1": w1, "w2": w2, "w3": w3}


RULE = Rule(
    "adan",
    update,
    (replace(BETA1, default=0.98), replace(BETA2, default=0.99), BETA3),
    (*MOMENTS, *DIFFERENCES),
    {"eps": 1e-8},
)
