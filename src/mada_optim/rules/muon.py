"""Muon: Jordan et al. 2024 (kellerjordan.github.io/posts/muon): Nesterov's momentum, orthogonalised. For matrices.

Its update has a root mean square of kappa, .2, as Adam's about has, so that one learning rate serves both (Liu et al.
2025, arXiv 2502.16982, section 2.2); `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` is this rule. The
momentum is an average: orthogonalisation doesn't see that factor.

Deviation from `torch.optim.Muon`: no rounding to bf16.
"""

from torch import Tensor

from mada_optim.matrices.polar_factor import orthogonal
from mada_optim.rule import DECAY, Coefficient, Coefficients, Interval, Rule, Slot, Slots
from mada_optim.rules.terms import Scalar, ema

# The derivative in mu is 0 at mu = 0, from where no hyper-step would lead away.
MU = Coefficient(
    "mu", r"\mu", Interval(0.01, 0.999), 0.95, DECAY, 5e-4, "Decay of the momentum, an average of gradients."
)
MATRIX_MOMENTUM = Slot("b", "b")


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    b, ahead = nesterov(c["mu"], s["b"], g)
    return c["kappa"] * orthogonal(ahead), {"b": b}


def nesterov(mu: Scalar, b: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The momentum with `g` in it, and what it would be with `g` once more."""
    b = ema(mu, b, g)
    return b, ema(mu, b, g)


RULE = Rule("muon", update, (MU,), (MATRIX_MOMENTUM,), {"kappa": 0.2}, pointwise=False)
