"""Adam: Kingma and Ba, ICLR 2015, algorithm 1.

Deviation: bias correction by averages of ones. It stays exact when a beta changes, and equals the paper's 1 - beta^t
with constant betas.
"""

from torch import Tensor

from mada_optim.rule import DECAY, Coefficient, Coefficients, Interval, Rule, Slot, Slots
from mada_optim.rules.terms import ema, root

BETA1 = Coefficient("beta1", r"\beta_1", Interval(0.0, 0.999), 0.9, DECAY, 5e-4, "Decay of the average of gradients.")
BETA2 = Coefficient(
    "beta2", r"\beta_2", Interval(0.5, 0.9999), 0.999, DECAY, 5e-4, "Decay of the average of squared gradients."
)

MOMENTS = (
    Slot("m", "m"),
    Slot("v", "v", non_negative=True),
    Slot("w1", r"w_1", scalar=True),
    Slot("w2", r"w_2", scalar=True),
)


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2 = c["beta1"], c["beta2"]
    m = ema(beta1, s["m"], g)
    v = ema(beta2, s["v"], g**2)
    w1 = ema(beta1, s["w1"], 1.0)
    w2 = ema(beta2, s["w2"], 1.0)
    u = (m / w1) / (root(v / w2) + c["eps"])
    return u, {"m": m, "v": v, "w1": w1, "w2": w2}


RULE = Rule("adam", update, (BETA1, BETA2), MOMENTS, {"eps": 1e-8})
