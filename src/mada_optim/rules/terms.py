"""The terms that several rules share, each written once."""

import torch
from torch import Tensor

Scalar = Tensor | float


def ema(beta: Scalar, past: Tensor, new: Scalar) -> Tensor:
    """Exponential moving average; `beta` is the weight of the past.

    `ema(beta, w, 1.0)` is the same average of ones. Dividing by it corrects the bias of the zero start exactly, also
    while beta changes; with a constant beta it is Adam's 1 - beta^t (Kingma and Ba 2015, section 3).
    """
    return beta * past + (1 - beta) * new


def running_mean(past: Tensor, new: Tensor, t: Tensor) -> Tensor:
    """The mean of all values from t = 1 on."""
    return past + (new - past) / t


def root(x: Tensor) -> Tensor:
    """Square root of x >= 0 whose derivative at 0 is 0.

    An element that never had a gradient, such as the embedding of an unused token, keeps v = 0. Its update is 0 for any
    coefficients, so its part of a hypergradient is 0; the derivative of sqrt would make it 0 * inf. NaN stays NaN.
    """
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def yogi_target(v: Tensor, square: Tensor) -> Tensor:
    """The target of Yogi's second moment: v plus or minus `square`, where Adam's target is `square`.

    ema(beta2, v, yogi_target(v, g^2)) is v - (1 - beta2) sign(v - g^2) g^2 (Zaheer et al., NeurIPS 2018, algorithm 2).
    """
    return v + square * torch.sign(square - v)


def difference(g: Tensor, past: Tensor, t: Tensor) -> Tensor:
    """g_t - g_{t-1}, and 0 at the first step, which has no gradient before it (Xie et al. 2022, Adan, algorithm 1)."""
    return torch.where(t == 1, 0.0, g - past)


def stop_gradient(x: Tensor) -> Tensor:
    """`x` as a constant for the derivative.

    Only for `mada_released` and `mada_published`, which reproduce code that detaches here. In every other rule, the
    hypergradient is the derivative of the formula as written.
    """
    return x.detach()
