"""Hypergradients: derivatives of this step's loss in the coefficients of the last step.

With the slots and the gradient of the last step held constant, its update moved the parameter to

    theta = (1 - alpha wd) theta_before - alpha u(q),

so a coefficient q of the rule has

    h_q = d loss / d q = < g_next, d theta / d q > = -alpha < g_next, du/dq >,

one vector-Jacobian product of the rule, in the coefficients only (MADA, section 3). For the learning rate
alpha = lr exp(q), the logarithm q of a factor is learned (Baydin et al., ICLR 2018, learn alpha itself):

    h_lr = -alpha < g_next, u + wd theta_before > = -alpha (wd < g_next, theta > + < g_next, u >) / (1 - alpha wd).

The rule is evaluated again here, so no autograd graph is kept between steps, only slots and gradient.
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
        learned: Names of the coefficients to differentiate in.
        c: Coefficients, 0-d tensors, and hyper-parameters of the update.
        g: Gradient of the update.
        s: Slots before the update.
        t: Number of the update's step, a 0-d tensor, at least 1.
        cotangent: A tensor in the shape and dtype of `g`.

    Returns:
        The derivatives, 1-d, in the order of `learned` and the dtype of the coefficients; and the product, 0-d.
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
    """The last update of a parameter."""

    rule: Rule
    c: Coefficients  # coefficients and hyper-parameters
    g: Tensor  # gradient
    s: Slots  # slots before the update
    t: Tensor  # number of the step, 0-d
    lr: Tensor  # learning rate alpha, 0-d
    weight_decay: float  # decoupled


def hypergradient(learned: Sequence[str], last: LastUpdate, theta: Tensor, g_next: Tensor) -> Tensor:
    """The hypergradients of one parameter, 1-d, in the order of `learned`, lr last.

    Args:
        learned: Names of the learned coefficients.
        last: The last update.
        theta: The parameter after the last update.
        g_next: The gradient at `theta`.
    """
    of_rule = [name for name in learned if name != LR.name]
    derivatives, product = sensitivity(last.rule, of_rule, last.c, last.g, last.s, last.t, g_next)
    if LR.name in learned:
        along = _along_displacement(last, product, theta, g_next)
        derivatives = torch.cat([derivatives, along.reshape(1).to(derivatives.dtype)])
    return -last.lr * derivatives


def along_trace(g_next: Tensor, theta: Tensor, anchor: Tensor) -> Tensor:
    """The hypergradient of ln lr over many steps, `< g_next, S >`, 0-d.

    S is the trace of the sensitivity,

        S_t = lambda (1 - alpha wd) S_{t-1} + (theta_t - theta_{t-1}).

    The displacement is d theta_t / d ln lr of the last step alone, because a step is proportional to lr. Weight decay
    keeps 1 - alpha wd of the earlier steps; without this factor, weights that decay holds in place would ask for a
    larger lr for ever. lambda stands for the unknown part of d theta_t / d theta_{t-1}, the curvature of the loss; with
    lambda = 0, only the last step counts.

    S isn't stored. With S = theta - A, the same recurrence is one of an anchor A,

        A_t = A_{t-1} + (1 - lambda (1 - alpha wd)) (theta_{t-1} - A_{t-1}),

    a running mean of the weights before each step, from those before the first. So S includes changes that a user makes
    between steps (a mask, a clamp, a norm): a step that was undone is no reason for a larger lr.
    """
    return (g_next * (theta - anchor)).sum()


def _along_displacement(last: LastUpdate, product: Tensor, theta: Tensor, g_next: Tensor) -> Tensor:
    """< g_next, u + wd theta_before >, without the decay's part where the step kept nothing of theta_before."""
    if not last.weight_decay:
        return product
    kept = 1 - last.lr * last.weight_decay
    whole = (product + last.weight_decay * (g_next * theta).sum()) / kept
    return torch.where(kept == 0, product, whole)
