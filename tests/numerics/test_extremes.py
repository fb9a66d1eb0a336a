"""Settings and gradients at the ends of what is allowed.

Catches: a division by eps = 0, a decay of all of a weight or more, a hypergradient whose overflow is seen by other
scopes, or by one engine only.
"""

import math

import pytest
import torch

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.rules import RULES
from tests.numerics.adversary import ENGINES
from tests.problems import everything

#: `mada_released` starts v at 1e-15, so that it never divides by 0.
WITH_EPS = [x for x in ENGINES if "eps" in RULES[x[1]].hyper_parameters and x[1] != "mada_released"]
OVERFLOWING = ([1e-19, 0.3], [2e-19, -0.2], [4e15, 0.1])  # the last times 1 / v, from the first, is beyond fp32


def run(params, gradients, *learned, hyper=None, **options):
    """The optimizer after each step; `hyper` has numbers of its learner."""
    opt = HyperOptimizer(params, learn=HyperSGD(*learned, start=0, **(hyper or {})), **options)
    for vectors in gradients:
        for p, g in zip(params, vectors, strict=True):
            p.grad = torch.tensor(g)
        opt.step()
        yield opt


def finite(opt):
    return all(x.isfinite().all() for x in everything(opt))


@pytest.mark.parametrize(("engine", "rule"), ENGINES)
def test_the_largest_gradients_there_are(engine, rule):
    """With signs that turn, hyper learning rates and momentum to match."""
    p = torch.nn.Parameter(torch.ones(3))
    hyper = {"lr": 1e300, "momentum": 0.999, "clip": math.inf}
    signs = [[[4e15 * a, -4e15, 4e15 * b]] for a in (1, -1) for b in (1, 0, -1)] * 3
    for opt in run([p], signs, *RULES[rule].coefficient_names(), "lr", hyper=hyper, rule=rule, engine=engine):
        assert finite(opt)


@pytest.mark.parametrize("g", [0.0, 1e-30])
@pytest.mark.parametrize(("engine", "rule"), WITH_EPS)
def test_no_eps(engine, rule, g):
    p = torch.nn.Parameter(torch.ones(2))
    for opt in run([p], [[[g, 1.0]], [[-g, -2.0]], [[g, 1.0]]], "lr", rule=rule, engine=engine, eps=0.0):
        assert finite(opt)


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_a_decay_of_all_of_a_weight_does_not_freeze_what_is_learned(engine):
    """lr * weight_decay = 1: the hypergradient of lr is not finite, step after step, and no coefficient moves again."""
    p = torch.nn.Parameter(torch.ones(2))
    options = {"lr": 1.0, "weight_decay": 1.0, "rule": "adam", "engine": engine}
    for opt in run([p], [[[1.0, 0.3]], [[0.5, -0.2]], [[-1.0, 0.1]]], "beta1", "lr", **options):
        assert all(map(math.isfinite, opt.hypergradients().values()))


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_a_learned_lr_does_not_turn_decay_into_growth(engine):
    """With lr = 1 and weight_decay = .5 learning may take lr to 1e4, in one step here."""
    p = torch.nn.Parameter(torch.ones(2))
    options = {"lr": 1.0, "weight_decay": 0.5, "rule": "adam", "engine": engine}
    for opt in run([p], [[[1e-9, 1e-9]], *[[[1e-3, 1e-3]]] * 3], "lr", hyper={"lr": 1e3}, **options):
        assert p.abs().max() < 1.1 * opt.coefficients()["lr"], opt.coefficients()


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_an_overflow_of_one_scope_is_its_own(engine):
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    other = [[0.1, 0.3], [0.2, -0.2], [0.3, 0.1]]
    options = {"rule": "adam", "eps": 1e-12, "engine": engine}
    before = [{}, {}]
    for opt in run(params, zip(OVERFLOWING, other, strict=True), "all", hyper={"scope": "tensor"}, **options):
        h, q = (list(x.values()) for x in (opt.hypergradients(), opt.coefficients()))
        frozen = [not all(map(math.isfinite, x.values())) for x in h]
        stayed, before = [x == y for x, y in zip(before, q, strict=True)], q
    assert frozen == [True, False]
    assert stayed == [True, False]
    assert all(x.isfinite().all() for x in opt.state[params[0]].values())


@pytest.mark.kernel
@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.pointwise or rule.matrix_weight])
def test_engines_agree_on_what_is_beyond_them(rule):
    """Weights, with sizes from denormals to the largest. A hypergradient may overflow in one engine and not in the
    other, since their products come in another order; either way the step is made."""
    learn = HyperSGD(*RULES[rule].coefficient_names(), "lr", lr=0.0, start=0)
    options = {"rule": rule, "learn": learn, "weight_decay": 0.1}
    options |= {"eps": 1e-12} if "eps" in RULES[rule].hyper_parameters else {}
    for _ in range(12):
        twins = [torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2)]
        opts = [HyperOptimizer([p], engine=x, **options) for p, x in zip(twins, ("cpu", "eager"), strict=True)]
        for smallest, largest in ((-20.0, -17.0), (-45.0, -17.0), (-20.0, 15.6), (-45.0, 15.6)):
            g = (10 ** torch.empty(5, dtype=torch.float64).uniform_(smallest, largest)).float() * torch.randn(5).sign()
            for p, opt in zip(twins, opts, strict=True):
                p.grad = g.clone()
                opt.step()
            torch.testing.assert_close(*(p.detach() for p in twins), rtol=1e-5, atol=1e-7)
