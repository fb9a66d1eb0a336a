"""Yogi: Zaheer, Reddi, Sachan, Kale and Kumar, NeurIPS 2018, algorithm 2.

Deviation: v starts at 0 with Adam's bias correction; in the paper it starts at the square of a first gradient, without
correction. From v = 0, the corrected v of the first step is g^2, as Adam's.
"""

from torch import Tensor

from mada_optim.rule import Coefficients, Rule, Slots
from mada_optim.rules.adam import BETA1, BETA2, MOMENTS
from mada_optim.rules.terms import ema, root, yogi_target


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2 = c["beta1"], c["beta2"]
    m = ema(beta1, s["m"], g)
    v = ema(beta2, s["v"], yogi_target(s["v"], g**2))
    w1 = ema(beta1, s["w1"], 1.0)
    w2 = ema(beta2, s["w2"], 1.0)
    u = (m / w1) / (root(v / w2) + c["eps"])
    return u, {"m": m, "v": v, "w1": w1, "w2": w2}


RULE = Rule("yogi", update, (BETA1, BETA2), MOMENTS, {"eps": 1e-3})
