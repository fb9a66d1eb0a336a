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


def nesterov(gs, mu):
    """The average of all gradients with the last one added once more, not corrected."""
    m = sum((1 - mu) * mu ** (len(gs) - i) * g for i, g in enumerate(gs, start=1))
    return mu * m + (1 - mu) * gs[-1]


def newton_schulz(x):
    """Jordan's five steps, from a Frobenius norm of 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T).T
    x = x / x.norm()
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x


def normuon(gs, mu, beta2):
    """NorMuon paper, algorithm 1, lines 4 to 9, with Nesterov's momentum: a mean over columns, no bias correction."""
    v = torch.zeros(gs[0].shape[0], dtype=gs[0].dtype)
    for i in range(1, len(gs) + 1):
        o = newton_schulz(nesterov(gs[:i], mu))
        v = beta2 * v + (1 - beta2) * (o * o).mean(dim=1)
    o = o / v.sqrt()[:, None]
    return 0.2 * (o.numel() ** 0.5) * o / o.norm()
