"""AMSGrad: Reddi, Kale and Kumar, ICLR 2018, algorithm 2.

Deviation: bias correction as in Adam; the paper has none. As in torch.optim, the maximum is of the uncorrected v, and
is corrected afterwards.
"""

import torch
from torch import Tensor

from mada_optim.rule import Coefficients, Rule, Slot, Slots
from mada_optim.rules.adam import BETA1, BETA2, MOMENTS
from mada_optim.rules.terms import ema, root


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2 = c["beta1"], c["beta2"]
    m = ema(beta1, s["m"], g)
    v = ema(beta2, s["v"], g**2)
    vmax = torch.maximum(s["vmax"], v)
    w1 = ema(beta1, s["w1"], 1.0)
    w2 = ema(beta2, s["w2"], 1.0)
    u = (m / w1) / (root(vmax / w2) + c["eps"])
    return u, {"m": m, "v": v, "vmax": vmax, "w1": w1, "w2": w2}


RULE = Rule("amsgrad", update, (BETA1, BETA2), (*MOMENTS, Slot("vmax", r"v^{\max}", non_negative=True)), {"eps": 1e-8})
