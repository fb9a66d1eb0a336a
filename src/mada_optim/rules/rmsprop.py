"""RMSprop: Hinton, Srivastava and Swersky, Neural Networks for Machine Learning (2012), lecture 6e, as in torch.optim.

`centered` goes from the raw second moment (0) to the variance (1; Graves, arXiv 1308.0850), and may be learned. The
momentum is a sum of updates, as in SGD. There is no bias correction.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mada_optim.rule import UNIT, Coefficient, Coefficients, Rule, Slot, Slots
from mada_optim.rules.adam import BETA2
from mada_optim.rules.sgd import MOMENTUM
from mada_optim.rules.terms import ema, root

ALPHA = replace(BETA2, name="alpha", symbol=r"\beta", default=0.99)
CENTERED = Coefficient(
    "centered", r"\zeta", UNIT, 0.0, meaning="Divisor: 0 is the root mean square, 1 the standard deviation."
)


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    v = ema(c["alpha"], s["v"], g**2)
    mean = ema(c["alpha"], s["mean"], g)
    spread = torch.clamp(v - c["centered"] * mean**2, min=0.0)  # below 0 by rounding only
    b = c["momentum"] * s["b"] + g / (root(spread) + c["eps"])
    return b, {"v": v, "mean": mean, "b": b}


RULE = Rule(
    "rmsprop",
    update,
    (ALPHA, replace(MOMENTUM, meaning="Decay of the sum of updates."), CENTERED),
    (Slot("v", "v", non_negative=True), Slot("mean", r"\bar g"), Slot("b", "b")),
    {"eps": 1e-8},
)
