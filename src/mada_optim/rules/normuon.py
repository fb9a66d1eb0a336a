"""NorMuon: Li et al. 2025 (arXiv 2510.05491), algorithm 1: Muon whose update has rows of about equal size.

Each row of the polar factor is divided by the root of a running mean r of its mean square; the whole keeps its norm.
`nu` mixes these factors with 1: nu = 0 is Muon, nu = 1 is NorMuon.

Deviations: the update keeps the norm of the polar factor, which the iteration leaves near sqrt(k) with k singular
values, where the paper's has exactly that of a root mean square of .2. The momentum is Nesterov's, as in `muon`.
"""

from torch import Tensor

from mada_optim.matrices.polar_factor import orthogonal
from mada_optim.matrices.rows import row_factors, row_mean_squares
from mada_optim.rule import UNIT, Coefficient, Coefficients, Rule, Slot, Slots
from mada_optim.rules import muon
from mada_optim.rules.terms import Scalar, ema

NU = Coefficient(
    "nu", r"\nu", UNIT, 1.0, meaning="Rows of the orthogonalized momentum: 1 makes them about equal in size, 0 doesn't."
)
ROW_SQUARES = Slot("r", "r", per_row=True, non_negative=True)
ROW_BETA = {"row_beta": 0.95}


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    b, ahead = muon.nesterov(c["mu"], s["b"], g)
    o = orthogonal(ahead)
    r = ema(c["row_beta"], s["r"], row_mean_squares(o))
    return c["kappa"] * normalized(c["nu"], o, r), {"b": b, "r": r}


def normalized(nu: Scalar, o: Tensor, r: Tensor) -> Tensor:
    """The rows of `o`, with nu = 1 over the roots of `r`, up to a factor that keeps the norm of `o`."""
    return o * ((1 - nu) + nu * row_factors(o, r))


RULE = Rule(
    "normuon",
    update,
    (*muon.RULE.coefficients, NU),
    (*muon.RULE.slots, ROW_SQUARES),
    {**muon.RULE.hyper_parameters, **ROW_BETA},
    pointwise=False,
    decays=tuple(ROW_BETA),
)
