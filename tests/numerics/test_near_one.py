"""Averages whose weight of the past is within 1e-7 of 1, or less, at their first steps and after a billion.

Catches: bias correction in fp32, where 1 - 1e-7 is 1 - 1.19e-7 and 1 - 1e-8 is 1, so that it is 19 % off or 0 / 0; a
bound that is 1 in the dtype of the coefficient; a mean over t that loses its sum.
"""

import math

import pytest
import torch

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.rules import RULES
from tests.numerics.adversary import ENGINES
from tests.numerics.driver import Driver
from tests.problems import everything

BETAS = ("beta1", "beta2", "beta3", "alpha", "momentum")
AVERAGED = ("adam", "amsgrad", "avgrad", "adan", "mada", "yogi")  # whose update is that of the gradient alone
GRADIENT = torch.tensor([1.0, -2.0, 0.25, 1e-3, 0.0])
GAPS = (1e-7, 2.0**-53)  # next to 1 in single precision and in double


def optimizer(rule, gap, engine, learn):
    """Learning or not, its coefficients stay, so that every average is known."""
    p = torch.nn.Parameter(torch.zeros(5))
    betas = {q.name: 1 - gap for q in RULES[rule].coefficients if q.name in BETAS}
    bounds = {q: (0.0, x) for q, x in betas.items()}
    learner = HyperSGD(*RULES[rule].coefficient_names(), "lr", lr=0.0, start=0, bounds=bounds) if learn else ()
    return p, HyperOptimizer([p], lr=1.0, rule=rule, engine=engine, learn=learner, **betas)


def steps(opt, p, count):
    for _ in range(count):
        p.grad = GRADIENT.clone()
        opt.step()
        assert all(x.isfinite().all() for x in everything(opt))


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize(("engine", "rule"), ENGINES)
def test_the_first_ten_steps(engine, rule, gap, learn):
    """Of equal gradients every corrected average is that gradient."""
    p, opt = optimizer(rule, gap, engine, learn)
    steps(opt, p, 10)
    assert all(opt.coefficients()[q] < 1 for q in BETAS if q in opt.coefficients())
    if rule in AVERAGED:
        eps = opt.defaults["eps"]
        torch.testing.assert_close(p.detach(), -10 * GRADIENT / (GRADIENT.abs() + eps), rtol=1e-5, atol=0.0)


def averages_of_ones(beta, steps):
    """The average after so many steps, and the mean of all so far."""
    w = -math.expm1(steps * math.log(beta))
    return w, 1 - beta * w / ((1 - beta) * steps)


def place(opt, p, t):
    """The state as after t equal gradients."""
    steps(opt, p, 1)
    state, q = opt.state[p], opt.param_groups[0]
    (w1, _), (w2, wbar2) = averages_of_ones(float(q["beta1"]), t), averages_of_ones(float(q["beta2"]), t)
    values = {"w1": w1, "w2": w2, "wbar2": wbar2, "m": w1 * GRADIENT, "v": w2 * GRADIENT**2, "vmax": w2 * GRADIENT**2}
    values |= {"vbar": wbar2 * GRADIENT**2, "g_prev": GRADIENT, "step": t + ("applied" in state)}
    # learning, slots are those one step before
    for name in values.keys() & state.keys():
        state[name].copy_(torch.as_tensor(values[name]))


@pytest.mark.parametrize("engine", ["auto", "eager"])
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("gap", [1e-7, 1e-8])
@pytest.mark.parametrize("t", [10, 10**6, 10**9])
@pytest.mark.parametrize("rule", ["adam", "amsgrad", "avgrad", "mada"])
def test_after_a_billion_steps(rule, t, gap, learn, engine):
    p, opt = optimizer(rule, gap, engine, learn)
    place(opt, p, t)
    with torch.no_grad():
        p.zero_()
    steps(opt, p, 4)
    eps = opt.defaults["eps"]
    torch.testing.assert_close(p.detach(), -4 * GRADIENT / (GRADIENT.abs() + eps), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("t", [10**6, 10**9])
@pytest.mark.parametrize("rule", ["nadam", "adan", "mada_released", "sgd", "rmsprop", "adagrad", "yogi", "lion"])
def test_rules_with_other_slots_are_finite_after_a_billion_steps(rule, t):
    for learn in (False, True):
        p, opt = optimizer(rule, 1e-8, "auto", learn)
        steps(opt, p, 2)
        opt.state[p]["step"].fill_(t)
        steps(opt, p, 5)


@pytest.mark.parametrize("engine", ["auto", "eager"])
@pytest.mark.parametrize("name", ["beta1", "beta2", "beta3"])
def test_learning_drives_a_beta_to_a_bound_next_to_one_and_back(name, engine):
    high = 1 - 1e-8
    one = Driver("mada", name, 0.0, engine, bounds={name: (0.5, high)})
    for _ in range(20):
        one.step(-0.02)
    assert one.value() == high
    one.step(0.02)
    assert one.value() < high
