"""SGD with heavy-ball momentum (Polyak 1964) or Nesterov's, as torch.optim reads them (Sutskever et al., ICML 2013).

The momentum is a sum of gradients, not an average: b_t = mu b_{t-1} + g_t, and there is no bias to correct. `nesterov`
goes from the heavy ball (0) to Nesterov's look-ahead (1), and may be learned in between.
"""

from torch import Tensor

from mada_optim.rule import DECAY, UNIT, Coefficient, Coefficients, Interval, Rule, Slot, Slots

MOMENTUM = Coefficient(
    "momentum", r"\mu", Interval(0.0, 0.999), 0.0, DECAY, 5e-4, "Decay of the momentum, a sum of gradients."
)
NESTEROV = Coefficient(
    "nesterov", r"\nu", UNIT, 0.0, meaning="Momentum: 0 is the heavy ball, 1 is Nesterov's look-ahead."
)


def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    mu, nu = c["momentum"], c["nesterov"]
    b = mu * s["b"] + g
    u = (1 - nu) * b + nu * (g + mu * b)
    return u, {"b": b}


RULE = Rule("sgd", update, (MOMENTUM, NESTEROV), (Slot("b", "b"),))
