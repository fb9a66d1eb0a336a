"""The guard keeps the betas in a safe range.

At step t, for the averages m of decay beta1 and v of decay beta2,

    beta1_t = min(beta1, t / (t + ramp)),    beta2_t = max(beta2, beta1, least_beta2).

m averages over at most 1 + t / ramp steps, because older gradients belong to other weights. v averages over at least as
many steps as m, and over 1 / (1 - least_beta2) steps. With a short average, v is about the square of the present
gradient, and every step has the size lr, however small the gradients become; with a longer one, steps shrink with the
gradients. If beta1^2 > beta2, an element of m / sqrt(v) has no bound once its gradients shrink: by Cauchy-Schwarz, m^2
<= v (1 - beta1)^2 / (1 - beta2) sum_k (beta1^2 / beta2)^k, and this sum diverges (Kingma and Ba, ICLR 2015, require
beta1^2 < sqrt(beta2) in their theorem 4.1; Reddi et al., ICLR 2018, beta1 < sqrt(beta2)).
"""

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mada_optim.rule import Coefficients, Rule, Slots, Update

#: The slots of rules with a guard: both averages, and the averages of ones that correct them while a beta changes.
NEEDED = {"m", "v", "w1", "w2"}


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Keeps the betas in a safe range. The numbers are from trials on small networks, docs/inside/lab-notebook.md.

    Attributes:
        ramp: Steps, >= 0: beta1 is limited to t / (t + ramp), so 0.9 applies in full from step 9 ramp on. 0: no limit.
        least_beta2: Lower limit of beta2, in [0, 1). A smaller beta2 that the user passes is refused.

    Raises:
        ValueError: A number is outside its interval.
    """

    ramp: float = 5.0
    least_beta2: float = 0.0

    def __post_init__(self) -> None:
        for name, high in (("ramp", math.inf), ("least_beta2", 1.0)):
            x = getattr(self, name)
            if isinstance(x, bool) or not isinstance(x, (int, float)) or not 0 <= x < high:
                raise ValueError(f"Guard({name}={x!r}): expected a number in [0, {high:g})")

    def require_used(self, beta2: float | Tensor) -> None:
        """Refuses a beta2 below `least_beta2` (ValueError)."""
        if float(beta2) < self.least_beta2:
            raise ValueError(
                f"beta2={float(beta2)}: expected at least {self.least_beta2}, below which the guard keeps no beta2; "
                "choose a larger one, Guard(least_beta2=0.0), or guard=None"
            )


def require_guard(guard: object) -> Guard | None:
    """The guard, or None. Raises ValueError if it is neither."""
    if guard is not None and not isinstance(guard, Guard):
        raise ValueError(f"guard={guard!r}: expected None or a Guard; Guard() has the usual numbers")
    return guard


def suits(rule: Rule) -> bool:
    """Whether a rule has the slots that a guard needs."""
    return set(rule.slot_names()) >= NEEDED


@functools.lru_cache(maxsize=64)
def guarded(rule: Rule, guard: Guard) -> Rule:
    """The rule with guarded betas. Raises ValueError if it has none that `suits`."""
    if not suits(rule):
        needed = ", ".join(sorted(NEEDED))
        raise ValueError(f"guard={guard}: expected a rule with the slots {needed}, got {rule.name!r}; leave guard out")
    return replace(rule, update=functools.partial(_update, rule.update, guard))


def _update(
    update: Update, guard: Guard, c: Coefficients, g: Tensor, s: Slots, t: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2 = betas(c["beta1"], c["beta2"], t, guard)
    return update({**c, "beta1": beta1, "beta2": beta2}, g, s, t)


def betas(beta1: Tensor | float, beta2: Tensor | float, t: Tensor, guard: Guard) -> tuple[Tensor, Tensor]:
    """beta1_t and beta2_t, 0-d; t is a 0-d tensor, 1 at the first step."""
    ramp, least = t / (t + guard.ramp), guard.least_beta2
    longer = torch.clamp(beta2 - beta1 + (t - t), min=0.0)  # t makes it a tensor where both are numbers
    return ramp - torch.clamp(ramp - beta1, min=0.0), least + torch.clamp(beta1 + longer - least, min=0.0)
