"""Betas that can't ruin a run: what a rule is given in the place of those that were chosen.

At step t, for the averages m of decay beta1 and v of decay beta2,

    beta1_t = min(beta1, t / (t + RAMP)),    beta2_t = max(beta2, beta1, floor).

m remembers 1 + t / RAMP steps at most: gradients from further back belong to other weights. v remembers as long as m at
least, and 1 / (1 - floor) steps. A v that remembers few is about the present gradient squared, so that each step is of
size lr, however small gradients have become; with a longer memory steps shrink as they do. And with beta2 below beta1,
where beta1^2 > beta2, an element of m / sqrt(v) has no bound once its gradients shrink: by Cauchy-Schwarz m^2 <= v
(1 - beta1)^2 / (1 - beta2) sum_k (beta1^2 / beta2)^k, a sum that diverges then (Kingma and Ba, ICLR 2015, ask for
beta1^2 < sqrt(beta2) in their theorem 4.1; Reddi et al., ICLR 2018, for beta1 < sqrt(beta2)). (.9, .99) is what it is
from step 45 on.
"""

import functools
from dataclasses import replace

import torch
from torch import Tensor

from mada_optim.spec import Coefficients, Rule, Slots, Update

RAMP = 5.0  # steps: from trials on small networks, docs/lab-notebook.md
#: What a rule has whose betas these are: both averages, each over the same average of ones, exact while a beta changes.
NEEDED = {"m", "v", "w1", "w2"}


def suits(rule: Rule) -> bool:
    """Whether a rule has betas that can be guarded."""
    return set(rule.slot_names()) >= NEEDED


@functools.lru_cache(maxsize=64)
def guarded(rule: Rule, floor: float = 0.0) -> Rule:
    """The rule with guarded betas.

    Args:
        rule: The rule.
        floor: The least beta2, in [0, 1).

    Raises:
        ValueError: It has none.
    """
    if not suits(rule):
        needed = ", ".join(sorted(NEEDED))
        raise ValueError(f"guard=True: expected a rule with the slots {needed}, got {rule.name!r}; leave guard out")
    return replace(rule, update=functools.partial(_update, rule.update, floor))


def _update(
    update: Update, floor: float, c: Coefficients, g: Tensor, s: Slots, t: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    beta1, beta2 = betas(c["beta1"], c["beta2"], t, floor)
    return update({**c, "beta1": beta1, "beta2": beta2}, g, s, t)


def betas(beta1: Tensor | float, beta2: Tensor | float, t: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """beta1_t and beta2_t, 0-d; t is a 0-d tensor, 1 at the first step."""
    ramp = t / (t + RAMP)
    longer = torch.clamp(beta2 - beta1 + (t - t), min=0.0)  # t makes it a tensor where both are numbers
    return ramp - torch.clamp(ramp - beta1, min=0.0), floor + torch.clamp(beta1 + longer - floor, min=0.0)
