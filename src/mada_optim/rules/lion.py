"""Lion: Chen et al., NeurIPS 2023 (arXiv 2302.06675), algorithm 2: the sign first, then the momentum.

A sign has the derivative 0 almost everywhere, so the hypergradients of both betas are 0: Lion learns nothing by itself.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mada_optim.rule import Coefficients, Rule, Slot, Slots
from mada_optim.rules.adam import BETA1, BETA2
from mada_optim.rules.terms import ema

MOMENTUM = Slot("l", r"\ell")


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    u = torch.sign(ema(c["beta1"], s["l"], g))
    return u, {"l": ema(c["beta2"], s["l"], g)}


RULE = Rule(
    "lion",
    update,
    (
        replace(BETA1, meaning="Weight of the momentum, against the gradient, in the sum whose sign is the update."),
        replace(BETA2, default=0.99, meaning="Decay of the momentum, an average of gradients."),
    ),
    (MOMENTUM,),
)
