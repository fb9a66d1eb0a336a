"""AdaGrad: Duchi, Hazan and Singer, JMLR 12 (2011), in the diagonal form, with torch.optim's lr_decay.

It has no coefficient of its own; its lr can be learned.
"""

from torch import Tensor

from mada_optim.rule import Coefficients, Rule, Slot, Slots
from mada_optim.rules.terms import root


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    total = s["total"] + g**2
    u = g / (root(c["initial_accumulator_value"] + total) + c["eps"])
    return u / (1 + (t - 1) * c["lr_decay"]), {"total": total}


RULE = Rule(
    "adagrad",
    update,
    (),
    (Slot("total", "G", non_negative=True),),
    {"eps": 1e-10, "initial_accumulator_value": 0.0, "lr_decay": 0.0},
)
