"""NAdam: Dozat, ICLR 2016 workshop, algorithm 2 with its momentum schedule, as in torch.optim.

The look-ahead uses the momentum of the next step: mu_t = beta_1 (1 - 0.96^(psi t) / 2), where psi is the
hyper-parameter `momentum_decay`. P is the product of all mu so far.

Deviation: v is divided by its average of ones, which equals 1 - beta_2^t with a constant beta_2.
"""

from dataclasses import replace

from torch import Tensor

from mada_optim.rule import Coefficients, Rule, Slot, Slots
from mada_optim.rules.adam import BETA1, BETA2
from mada_optim.rules.terms import Scalar, ema, root


def momentum(beta1: Scalar, psi: Scalar, t: Tensor) -> Tensor:
    """Dozat, section 2.2: beta_1 with a warm-up."""
    return beta1 * (1 - 0.5 * 0.96 ** (psi * t))


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2, psi = c["beta1"], c["beta2"], c["momentum_decay"]
    mu, mu_next = momentum(beta1, psi, t), momentum(beta1, psi, t + 1)
    product = s["P"] * mu
    m = ema(beta1, s["m"], g)
    v = ema(beta2, s["v"], g**2)
    w2 = ema(beta2, s["w2"], 1.0)
    lookahead = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
    u = lookahead / (root(v / w2) + c["eps"])
    return u, {"m": m, "v": v, "w2": w2, "P": product}


RULE = Rule(
    "nadam",
    update,
    (replace(BETA1, meaning="Decay of the average of gradients, and the limit of the look-ahead's momentum."), BETA2),
    (
        Slot("m", "m"),
        Slot("v", "v", non_negative=True),
        Slot("w2", "w_2", scalar=True),
        Slot("P", "P", init=1.0, scalar=True),
    ),
    {"eps": 1e-8, "momentum_decay": 4e-3},
)
