"""The authors' training loops (train.py and train_ddp.py) on tiny networks: by this library, and by an oracle.

The oracle shares nothing with the library. Weights are functions of the coefficients that made them, and the loss is
differentiated through them, as the authors do it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, linear

from mada_optim import MADA, HyperSGD

NAMES = ("beta1", "beta2", "beta3", "rho", "c", "gamma")
INTERVALS = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99), "beta3": (0.0, 0.99)}  # [0, 1] for the others
LOGGED = (0.51, 0.99)  # where writing a log line takes beta2


class Run(NamedTuple):
    """What a loop is given.

    Attributes:
        config: Its numbers, by the names of the published traces.
        tied: Whether the head's weight is the embedding's.
        weights: The initial ones.
        rates: The learning rate of each update.
        batches: The micro-batches of each update: pairs of a row of tokens and the row of those that follow.
    """

    config: Mapping[str, Any]
    tied: bool
    weights: dict[str, torch.Tensor]
    rates: list[float]
    batches: list[list[Any]]


class Step(NamedTuple):
    """An update.

    Attributes:
        losses: Of its micro-batches.
        grad_norm: Of the whole gradient, before clipping.
        hypergradients: Those that it learned from, in the order of `NAMES`, before zeroing and clipping.
        coefficients: Those that it used.
        weights: After it.
    """

    losses: list[float]
    grad_norm: float
    hypergradients: list[float]
    coefficients: list[float]
    weights: dict[str, torch.Tensor]


def loss_of(weights, tied, batch):
    """Mean cross-entropy of one row."""
    x, y = map(torch.tensor, batch)
    hidden = gelu(linear(weights["emb.weight"][x], weights["fc.weight"], weights["fc.bias"]))
    if tied:
        logits = linear(linear(hidden, weights["proj.weight"], weights["proj.bias"]), weights["emb.weight"])
    else:
        logits = linear(hidden, weights["out.weight"], weights["out.bias"])
    return cross_entropy(logits, y)


def started(config):
    """The initial coefficients, in their intervals, as the first step of the authors' optimizer puts them."""
    return {q: min(max(config["start"][q], low), high) for q, (low, high) in intervals().items()}


def intervals():
    return {q: INTERVALS.get(q, (0.0, 1.0)) for q in NAMES}


def first_hyper_step(config):
    """The number of updates before the first hyper-step that moves anything: `start` of a learner.

    The first update has the micro-batches 0 to 1 % GA, and every later one GA of them. Its hyper-step comes with its
    first micro-batch, and moves nothing where that has a number below `hypergrad_init_iter`.
    """
    accumulated = config["gradient_accumulation_steps"]
    of_second_update = 1 % accumulated + 1
    return max(0, math.ceil((config["hypergrad_init_iter"] - of_second_update) / accumulated) + 1)


def learner(config):
    """The learner with the numbers of a loop."""
    numbers = {"lr": config["hyper_lr"], "momentum": config["hyper_momentum"], "clip": config["hyper_clip"]}
    return HyperSGD("all", **numbers, start=first_hyper_step(config))


def ours(run, engine="auto", rule="mada_published", after_log=lambda opt: None):
    """The updates of a training loop on this library, observing the first micro-batch of each before clipping.

    Args:
        run: What it is given.
        engine: Of the library.
        rule: In the place of the authors' rule.
        after_log: Told the optimizer after each update and its log line.
    """
    config, start = run.config, started(run.config)
    params = {name: nn.Parameter(x.clone()) for name, x in run.weights.items()}
    groups = [
        {"params": [p for p in params.values() if p.ndim > 1], "weight_decay": config["weight_decay"]},
        {"params": [p for p in params.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    options = {"betas": (start.pop("beta1"), start.pop("beta2")), "eps": config["eps"], **start}
    opt = MADA(groups, rule=rule, learn=learner(config), engine=engine, **options)
    number = -1  # of the micro-batch
    for rate, batches in zip(run.rates, run.batches, strict=True):
        for group in opt.param_groups:
            group["lr"] = rate
        losses = []
        for batch in batches:
            loss = loss_of(params, run.tied, batch)
            (loss / config["gradient_accumulation_steps"]).backward()
            if not losses:
                opt.observe()
            losses.append(loss.item())
        number += len(batches)
        norm = nn.utils.clip_grad_norm_(params.values(), config["grad_clip"])
        opt.step()
        opt.zero_grad()
        h, q = opt.hypergradients(), opt.coefficients()
        weights = {name: p.detach().clone() for name, p in params.items()}
        yield Step(losses, norm.item(), [h[x] for x in NAMES], [q[x] for x in NAMES], weights)
        if number % config["log_interval"] == 0 and not LOGGED[0] <= q["beta2"] <= LOGGED[1]:
            opt.param_groups[0]["beta2"] = min(max(q["beta2"], LOGGED[0]), LOGGED[1])
        after_log(opt)


def theirs(*ranks):
    """The updates of the oracle, on as many ranks: each has its own batches, and all else of the first one's run."""
    config, tied = ranks[0].config, ranks[0].tied
    dtype = next(iter(ranks[0].weights.values())).dtype
    q = {name: torch.tensor(x, dtype=dtype, requires_grad=True) for name, x in started(config).items()}
    theta = {name: x.clone().requires_grad_() for name, x in ranks[0].weights.items()}
    slots = {name: Slots() for name in theta}
    velocity = dict.fromkeys(NAMES, 0.0)
    number = 0
    for t, (rate, *batches) in enumerate(zip(ranks[0].rates, *(run.batches for run in ranks), strict=True), start=1):
        leaves = {name: x.detach().requires_grad_() for name, x in theta.items()}
        losses = [[loss_of(leaves if j else theta, tied, x) for j, x in enumerate(own)] for own in batches]
        found = [derivatives(own, theta, q, leaves, config["gradient_accumulation_steps"]) for own in losses]
        h = dict(zip(NAMES, mean([of_q for _, of_q in found]), strict=True))
        hyper_step(config, q, h if number >= config["hypergrad_init_iter"] else None, velocity)
        used = [q[name].item() for name in NAMES]
        gradients = mean([clipped(own, config["grad_clip"]) for own, _ in found])
        for (name, x), g in zip(leaves.items(), gradients, strict=True):
            decay = config["weight_decay"] * (x.ndim > 1)
            power = q["beta1"] ** t, q["beta2"] ** t
            theta[name] = x.detach() * (1 - rate * decay) - rate * slots[name].update(q, g, t, power, config["eps"])
        number += len(batches[0])
        weights = {name: x.detach() for name, x in theta.items()}
        shown = [x.item() for own in losses for x in own]
        yield Step(shown, norm_of(mean([own for own, _ in found])), [h[x].item() for x in NAMES], used, weights)
        if (number - 1) % config["log_interval"] == 0:
            q["beta2"].data.clamp_(*LOGGED)  # in place, and unseen by autograd, which has kept it for beta2 ** t


def derivatives(losses, theta, q, leaves, share):
    """The gradient of a rank's micro-batches, of which the first sees how `theta` came about, and that one's by `q`."""
    wanted = [*theta.values(), *q.values()]
    first = torch.autograd.grad(losses[0] / share, wanted, materialize_grads=True, retain_graph=True)
    gradients = first[: len(theta)]
    for loss in losses[1:]:
        more = torch.autograd.grad(loss / share, list(leaves.values()))
        gradients = [a + b for a, b in zip(gradients, more, strict=True)]
    return gradients, first[len(theta) :]


def mean(ranks):
    """Of each tensor."""
    return [sum(x) / len(x) for x in zip(*ranks, strict=True)]


def norm_of(gradients):
    """Of all of them together."""
    return math.sqrt(sum(g.square().sum().item() for g in gradients))


def clipped(gradients, largest):
    """A gradient, with a norm of at most `largest`."""
    return [g * min(1.0, largest / (norm_of(gradients) + 1e-6)) for g in gradients]


def hyper_step(config, q, h, velocity):
    """SGD with momentum, each hypergradient clipped as torch clips a norm; then the projection."""
    for name in NAMES:
        if h is not None:
            clip = min(1.0, config["hyper_clip"] / (abs(h[name].item()) + 1e-6))
            velocity[name] = config["hyper_momentum"][name] * velocity[name] + clip * h[name]
            q[name].data -= config["hyper_lr"][name] * velocity[name]
        q[name].data.clamp_(*intervals()[name])


class Slots:
    """What the authors' optimizer keeps for a tensor."""

    def __init__(self):
        self.m = self.slow = 0.0
        self.v = self.vbar = 1e-15
        self.n = None

    def update(self, q, g, t, powers, eps):
        """The direction of a step, a function of the coefficients `q`; the powers of the betas are given."""
        n = g * g if self.n is None else self.n  # g_{t-1} is 0
        looked_ahead = ((1 + q["beta3"]) * g) ** 2
        yogi = self.v + looked_ahead * torch.sign(looked_ahead - self.v)
        m = q["beta1"] * self.m + (1 - q["beta1"]) * g
        n = q["beta3"] * n + (1 - q["beta3"]) * g
        v = q["beta2"] * self.v + (1 - q["beta2"]) * (q["c"] * looked_ahead + (1 - q["c"]) * yogi)
        vbar = ((t - 1) * self.vbar + v.detach()) / t
        slow = 0.98 * self.slow + 0.02 * g
        self.m, self.n, self.v, self.vbar, self.slow = m.detach(), n.detach(), v.detach(), vbar, slow
        root = ((q["rho"] * v + (1 - q["rho"]) * vbar) / (1 - powers[1])).sqrt() + eps
        adaptive = (m / (1 - powers[0]) + q["beta3"] * n) / root
        return q["gamma"] * adaptive + (1 - q["gamma"]) * torch.sign(0.95 * slow + 0.05 * g)
