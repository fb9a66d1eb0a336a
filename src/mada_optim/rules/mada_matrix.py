"""MADA with a member for matrices: where a parameter is a hidden weight matrix, omega mixes Muon's direction in.

    u = (1 - omega) u_mada + omega u_muon

Corners: Muon at omega = 1, `mada` at omega = 0, which is what every other tensor has. Both updates have about the same
root mean square, so one learning rate serves all.

Deviation from the rule `muon`: the polar factor of the momentum is taken by other polynomials, which are cheaper and
come as near to it (`mada_optim.matrices.polar_factor`).
"""

from torch import Tensor

from mada_optim.matrices.polar_factor import polar
from mada_optim.rule import UNIT, Coefficient, Coefficients, Rule, Slots
from mada_optim.rules import mada, muon

OMEGA = Coefficient(
    "omega", r"\omega", UNIT, 1.0, meaning="Update of hidden matrices: 1 is Muon's, 0 is that of all other tensors."
)


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    omega = c["omega"]
    u_mada, slots = mada.update(c, g, s, t)
    b, ahead = muon.nesterov(c["mu"], s["b"], g)
    u_muon = c["kappa_matrix"] * polar(ahead)
    return (1 - omega) * u_mada + omega * u_muon, {**slots, "b": b}


RULE = Rule(
    "mada_matrix",
    update,
    (*mada.RULE.coefficients, OMEGA),
    (*mada.RULE.slots, *muon.RULE.slots),
    {**mada.RULE.hyper_parameters, "mu": 0.95, "kappa_matrix": 0.2},
    pointwise=False,
    matrix_weight="omega",
)
