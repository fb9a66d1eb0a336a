"""The hypergradient: how the loss of this step depends on the coefficients of the last one.

The last applied update moved the parameter by -lr u(q). With the slots and the gradient of that step held constant,

    h_q = d loss / d q = < g_next, d theta / d q > = -lr < g_next, du/dq >,

one vector-Jacobian product of the rule, in the coefficients only (MADA, section 3; Baydin et al., ICLR 2018, for lr).
The rule is evaluated anew here, so no graph outlives the call and nothing is kept between steps but slots and gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mada_optim.spec import Coefficients, Rule, Slots


def sensitivity(
    rule: Rule, learned: Sequence[str], c: Coefficients, g: Tensor, s: Slots, t: Tensor, cotangent: Tensor
) -> Tensor:
    """Differentiates `< cotangent, u(c, g, s, t) >` in the learned coefficients.

    Args:
        rule: The rule whose update is differentiated.
        learned: Names of the coefficients to differentiate in, at least one.
        c: The coefficients (0-d tensors) and hyper-parameters that the update was made with.
        g: The gradient that it was made with.
        s: The slots as they were before it.
        t: The number of that step, a 0-d tensor, at least 1.
        cotangent: Shape and dtype of `g`.

    Returns:
        The derivatives, 1-d, in the order of `learned` and the dtype of the coefficients.
    """
    leaves = {name: torch.as_tensor(c[name]).detach().requires_grad_() for name in learned}
    with torch.enable_grad():
        u, _ = rule.update({**c, **leaves}, g, s, t)
    return torch.stack(_vjp(u, list(leaves.values()), cotangent))


def _vjp(u: Tensor, leaves: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    if not u.requires_grad:  # the rule uses none of them
        return [torch.zeros_like(x) for x in leaves]
    return list(torch.autograd.grad(u, leaves, cotangent, allow_unused=True, materialize_grads=True))
