"""Short transcriptions of published algorithms, written apart from the library, for tests only.

Each takes the list of all gradients so far and gives the update u_t, so nothing is shared with the rules: no slots, no
recurrences where a sum says the same, and bias corrections as powers of the constant betas.
"""

import itertools

import torch


def average(beta, xs):
    """(1 - beta) sum_i beta^(t-i) x_i, corrected by 1 - beta^t."""
    t = len(xs)
    weights = [(1 - beta) * beta ** (t - i) for i in range(1, t + 1)]
    return sum(w * x for w, x in zip(weights, xs, strict=True)) / (1 - beta**t)


def avgrad(gs, beta1, beta2, eps):
    """MADA paper, AVGrad: the mean over time of Adam's second moments; its correction is the mean of theirs."""
    squares = [g * g for g in gs]
    t = len(gs)
    moments = [average(beta2, squares[:i]) * (1 - beta2**i) for i in range(1, t + 1)]
    correction = sum(1 - beta2**i for i in range(1, t + 1)) / t
    return average(beta1, gs) / (((sum(moments) / t) / correction).sqrt() + eps)


def yogi(gs, beta1, beta2, eps):
    """Yogi paper, algorithm 2: v_t = v_{t-1} - (1 - beta2) sign(v_{t-1} - g^2) g^2; with Adam's corrections."""
    v = torch.zeros_like(gs[0])
    for g in gs:
        v = v - (1 - beta2) * torch.sign(v - g * g) * g * g
    return average(beta1, gs) / ((v / (1 - beta2 ** len(gs))).sqrt() + eps)


def adan(gs, beta1, beta2, beta3, eps):
    """Adan paper, algorithm 1, in the authors' decays: .98 for m, .92 (here beta3) for differences, .99 for n."""
    differences = [torch.zeros_like(gs[0])] + [b - a for a, b in itertools.pairwise(gs)]
    looked_ahead = [(g + beta3 * d) ** 2 for g, d in zip(gs, differences, strict=True)]
    direction = average(beta1, gs) + beta3 * average(beta3, differences)
    return direction / (average(beta2, looked_ahead).sqrt() + eps)


def lion(gs, beta1, beta2):
    """Lion paper, algorithm 2: the sign is taken before the momentum moves."""
    momentum = torch.zeros_like(gs[0])
    for g in gs[:-1]:
        momentum = beta2 * momentum + (1 - beta2) * g
    return torch.sign(beta1 * momentum + (1 - beta1) * gs[-1])
