"""The hypergradient: how the loss of this step depends on the coefficients of the last one.

With the slots and the gradient of that step held constant, the last update moved the parameter to

    theta = (1 - alpha wd) theta_before - alpha u(q),

so a coefficient q of the rule has

    h_q = d loss / d q = < g_next, d theta / d q > = -alpha < g_next, du/dq >,

one vector-Jacobian product of the rule, in the coefficients only (MADA, section 3). Of the learning rate
alpha = lr exp(q), the logarithm q of a factor is learned (Baydin et al., ICLR 2018, learn alpha itself):

    h_lr = -alpha < g_next, u + wd theta_before > = -alpha (wd < g_next, theta > + < g_next, u >) / (1 - alpha wd).

The rule is evaluated anew here, so no graph outlives the call and nothing is kept between steps but slots and gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mada_optim.rule import LR, Coefficients, Rule, Slots


def sensitivity(
    rule: Rule, learned: Sequence[str], c: Coefficients, g: Tensor, s: Slots, t: Tensor, cotangent: Tensor
) -> tuple[Tensor, Tensor]:
    """Differentiates `< cotangent, u(c, g, s, t) >` in the learned coefficients.

    Args:
        rule: The rule whose update is differentiated.
        learned: Names of coefficients of the rule to differentiate in.
        c: The coefficients, 0-d tensors, and hyper-parameters that the update was made with.
        g: The gradient that it was made with.
        s: The slots as they were before it.
        t: The number of that step, a 0-d tensor, at least 1.
        cotangent: Shape and dtype of `g`.

    Returns:
        The derivatives, 1-d, in the order of `learned` and the dtype of the coefficients; and the product itself, 0-d.
    """
    leaves = {name: x.detach().requires_grad_() for name in learned if isinstance(x := c[name], Tensor)}
    with torch.enable_grad():
        u, _ = rule.update({**c, **leaves}, g, s, t)
    product = (cotangent * u.detach()).sum()
    derivatives = _vjp(u, list(leaves.values()), cotangent)
    return torch.stack(derivatives) if derivatives else t.new_zeros(0), product


def _vjp(u: Tensor, leaves: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    if not u.requires_grad:  # the rule uses none of them
        return [torch.zeros_like(x) for x in leaves]
    return list(torch.autograd.grad(u, leaves, cotangent, allow_unused=True, materialize_grads=True))


@dataclass(frozen=True)
class LastUpdate:
    """How a parameter was moved last.

    Attributes:
        rule: By which rule.
        c: With which coefficients and hyper-parameters.
        g: The gradient.
        s: The slots before it.
        t: The number of that step, 0-d.
        lr: The learning rate alpha, 0-d.
        weight_decay: Decoupled.
    """

    rule: Rule
    c: Coefficients
    g: Tensor
    s: Slots
    t: Tensor
    lr: Tensor
    weight_decay: float


def hypergradient(learned: Sequence[str], last: LastUpdate, theta: Tensor, g_next: Tensor) -> Tensor:
    """The hypergradients of one parameter, 1-d, in the order of `learned`, where lr comes last if at all.

    `theta` is the parameter as `last` left it, `g_next` its gradient there.
    """
    of_rule = [name for name in learned if name != LR.name]
    derivatives, product = sensitivity(last.rule, of_rule, last.c, last.g, last.s, last.t, g_next)
    if LR.name in learned:
        along = _along_displacement(last, product, theta, g_next)
        derivatives = torch.cat([derivatives, along.reshape(1).to(derivatives.dtype)])
    return -last.lr * derivatives


def along_trace(g_next: Tensor, theta: Tensor, anchor: Tensor) -> Tensor:
    """The hypergradient of ln lr over many steps, `< g_next, S >` (0-d), S being the trace of its sensitivity.

        S_t = lambda (1 - alpha wd) S_{t-1} + (theta_t - theta_{t-1}).

    The displacement is d theta_t / d ln lr of the last step alone, as what moved the weights moves them in proportion
    to lr. Of what earlier steps did, weight decay has kept 1 - alpha wd: that part of d theta_t / d theta_{t-1} is
    known. Without it, weights that decay holds where they are would seem to ask for a larger lr for ever. lambda stands
    for the part that isn't known, the curvature of the loss; lambda = 0 leaves the last step.

    S isn't stored. It is the way from an anchor A to the weights: with S = theta - A the same recurrence is

        A_t = A_{t-1} + (1 - lambda (1 - alpha wd)) (theta_{t-1} - A_{t-1}),

    a running mean of the weights as steps find them, the first of which it begins at. So what a user does to the
    weights between two steps (a mask, a clamp, a norm) is in S as well: a move that was taken back is no reason for a
    larger lr, and nobody has to say, or notice, that it was.
    """
    return (g_next * (theta - anchor)).sum()


def _along_displacement(last: LastUpdate, product: Tensor, theta: Tensor, g_next: Tensor) -> Tensor:
    """< g_next, u + wd theta_before >; where nothing of theta_before was kept, its share is left out."""
    if not last.weight_decay:
        return product
    kept = 1 - last.lr * last.weight_decay
    whole = (product + last.weight_decay * (g_next * theta).sum()) / kept
    return torch.where(kept == 0, product, whole)
