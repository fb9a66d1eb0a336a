"""MADA with Muon's update mixed in for hidden weight matrices.

    u = (1 - omega) u_mada + omega u_muon

Corners: omega = 1 is Muon, and with nu = 1 NorMuon; omega = 0 is `mada`. All other tensors have omega = 0. Both updates
have about the same root mean square, so one learning rate serves all.

Deviation from the rules `muon` and `normuon`: the polar factor of the momentum is computed by other polynomials, which
are cheaper and about as close to it (`mada_optim.matrices.polar_factor`).
"""

from dataclasses import replace

from torch import Tensor

from mada_optim.matrices.polar_factor import polar
from mada_optim.matrices.rows import row_mean_squares
from mada_optim.rule import UNIT, Coefficient, Coefficients, Rule, Slots
from mada_optim.rules import mada, muon, normuon
from mada_optim.rules.terms import ema

OMEGA = Coefficient(
    "omega", r"\omega", UNIT, 1.0, meaning="Update of hidden matrices: 1 is Muon's, 0 is that of all other tensors."
)


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    omega = c["omega"]
    u_mada, slots = mada.update(c, g, s, t)
    b, ahead = muon.nesterov(c["mu"], s["b"], g)
    o = polar(ahead)
    r = ema(c["row_beta"], s["r"], row_mean_squares(o))
    u_muon = c["kappa_matrix"] * normuon.normalized(c["nu"], o, r)
    return (1 - omega) * u_mada + omega * u_muon, {**slots, "b": b, "r": r}


RULE = Rule(
    "mada_matrix",
    update,
    (*mada.RULE.coefficients, OMEGA, replace(normuon.NU, default=0.0)),
    (*mada.RULE.slots, *normuon.RULE.slots),
    {**mada.RULE.hyper_parameters, "mu": 0.95, "kappa_matrix": 0.2, **normuon.ROW_BETA},
    pointwise=False,
    matrix_weight="omega",
    decays=(*mada.RULE.decays, "mu", *normuon.RULE.decays),
)
