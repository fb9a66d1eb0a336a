"""The learning rate as a coefficient: its hypergradient against difference quotients, and Baydin's algorithms.

Catches: weight decay left out of the derivative, or taken of the wrong weights, a factor of lr too much or too few, a
scheduled lr that the factor does not multiply.
"""

import math

import pytest
import torch

from mada_optim import SGD, HyperOptimizer, HyperSGD, HyperTorch
from mada_optim.rules import RULES
from tests.gradient.test_sensitivity import SPREAD
from tests.oracles_gdtuo.adapters import Latent, alpha

LR = 0.02
EAGER = [(rule, "eager", torch.float64, 0.3) for rule in RULES]
LOOPS = [
    pytest.param(rule, "cpu", torch.float32, 0.3, marks=pytest.mark.kernel) for rule in RULES if "muon" not in rule
]
#: Without decay, and the eager engine in single precision: neither has to do with the rule.
OTHERS = [("mada", "eager", torch.float32, 0.3), ("mada", "eager", torch.float64, 0.0)]
OTHERS += [pytest.param("mada", "cpu", torch.float32, 0.0, marks=pytest.mark.kernel)]


def quadratic(dtype):
    """Curvature and minimum of a loss, of two tensors."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(6, 3), (5,)]
    draws = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes * 2]
    return [(0.5 + x).to(dtype) for x in draws[:2]], [(3 * x).to(dtype) for x in draws[2:]]


def loss_and_gradients(params, dtype):
    curvature, minimum = quadratic(dtype)
    pairs = zip(params, curvature, minimum, strict=True)
    loss = sum((k * (p - x) ** 2).sum() for p, k, x in pairs)
    for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
        p.grad = g
    return loss.item()


def run(shift, steps, dtype, **options):
    """The loss after `steps`, the last with the logarithm of the factor moved by `shift`; and its hypergradient."""
    params = [torch.nn.Parameter(torch.ones_like(k)) for k in quadratic(dtype)[0]]
    opt = HyperOptimizer(params, lr=0.05, learn=HyperSGD("lr", lr=0.0), **options)
    for t in range(1, steps + 1):
        loss_and_gradients(params, dtype)
        opt.param_groups[0]["lr"] = 0.05 / t  # as a scheduler would
        if t == steps:
            opt.param_groups[0]["log_lr"] += shift
        opt.step()
    loss = loss_and_gradients(params, dtype)
    opt.step()
    return loss, opt.hypergradients()["lr"], opt.engine


@pytest.mark.parametrize(("rule", "engine", "dtype", "weight_decay"), [*EAGER, *LOOPS, *OTHERS])
def test_hypergradient_is_the_derivative_of_the_next_loss(rule, engine, dtype, weight_decay):
    """By central differences in float64 through one whole step."""
    start = {q.name: SPREAD[q.name] for q in RULES[rule].coefficients}
    options = {"rule": rule, "weight_decay": weight_decay, **start}
    for steps in (1, 2, 9):
        h = 1e-4
        ends = [run(x, steps, torch.float64, **options)[0] for x in (h, -h)]
        _, mine, ran = run(0.0, steps, dtype, engine=engine, **options)
        assert ran == engine
        expected = pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6 if dtype == torch.float64 else 2e-4)
        assert mine == expected, steps


def baydin(direction, beta):
    """Baydin et al., ICLR 2018, algorithms 4 to 6, with prescribed gradients; yields alpha and the displacement.

    `direction(t, g)` is -du/dalpha: what the step of size alpha goes along.
    """
    alpha_now, before, theta = LR, 0.0, torch.zeros(7, dtype=torch.float64)
    for t, g in enumerate(prescribed(), 1):
        alpha_now = alpha_now + beta * (g * before).sum() if t > 1 else alpha_now
        before = direction(t, g)
        theta = theta - alpha_now * before
        yield float(alpha_now), theta


def prescribed():
    generator = torch.Generator().manual_seed(2)
    common = torch.randn(7, generator=generator, dtype=torch.float64)
    return [common + torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(50)]


def sgd_hd(t, g):
    return g


class NesterovHD:
    def __init__(self):
        self.v = 0.0

    def __call__(self, t, g):
        self.v = 0.9 * self.v + g
        return g + 0.9 * self.v


class AdamHD:
    def __init__(self):
        self.m = self.v = 0.0

    def __call__(self, t, g):
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        return self.m / (1 - 0.9**t) / ((self.v / (1 - 0.999**t)).sqrt() + 1e-8)


ALGORITHMS = {
    "SGD-HD": (lambda: sgd_hd, {"rule": "sgd"}),
    "SGDN-HD": (NesterovHD, {"rule": "sgd", "momentum": 0.9, "nesterov": 1.0}),
    "Adam-HD": (AdamHD, {"rule": "adam"}),
}


def additive(q):
    """Steps alpha itself."""
    return Latent(q, [alpha(LR)], lambda z: torch.optim.SGD(z, lr=1e-4))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_hypergradient_descent(name):
    """Baydin's updates are additive in alpha: they need a learner that steps alpha itself, plain SGD."""
    make, options = ALGORITHMS[name]
    p = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    opt = HyperOptimizer(
        [p],
        lr=LR,
        learn=HyperTorch("lr", make=additive, start=0, clip=math.inf),
        **options,
    )
    for g, (expected, theta) in zip(prescribed(), baydin(make(), 1e-4), strict=True):
        p.grad = g
        opt.step()
        assert opt.coefficients()["lr"] == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(p.detach(), theta, rtol=1e-12, atol=1e-12)
    assert expected > 1.2 * LR


def test_the_built_in_learner_is_the_same_descent_in_the_logarithm():
    """alpha_t = alpha_{t-1} exp(b alpha_{t-1} < g_t, g_{t-1} >): for small steps Baydin's, scaled by alpha^2."""
    p = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    opt = SGD([p], lr=LR, learn=HyperSGD("lr", lr=0.1, start=0))
    now, before = LR, torch.zeros(7, dtype=torch.float64)
    for g in prescribed():
        p.grad = g
        opt.step()
        now, before = now * math.exp(0.1 * now * (g @ before).item()), g
        assert opt.coefficients()["lr"] == pytest.approx(now, rel=1e-12)
    assert now > 1.2 * LR
