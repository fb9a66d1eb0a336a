"""What may go wrong in a step, and what it must leave alone.

Catches: a skipped step that multiplies by 0 (0 * NaN is NaN), a step counter or a momentum that moves all the same, and
a hypergradient that pairs a gradient with an update that never happened.
"""

import copy
import math

import pytest
import torch

from mada_optim import MADA, Adam, HyperOptimizer, HyperSGD
from mada_optim.rule import UNIT, Coefficient, Rule
from tests.problems import everything, give_gradients, learning, parameters, same_bits, train


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [1, 7])
@pytest.mark.parametrize("make", [learning, lambda p: Adam(p)], ids=["learning", "fixed"])
def test_one_bad_element_makes_the_step_a_no_op(make, at, bad):
    params = parameters()
    opt = make(params)
    twin_params = copy.deepcopy(params)
    twin = make(twin_params)
    train(opt, params, range(at))
    train(twin, twin_params, range(at))
    before = everything(opt)
    give_gradients(params, 99)
    params[0].grad[1, 2] = bad
    opt.step()
    assert same_bits(everything(opt), before)
    train(opt, params, range(100, 105))
    train(twin, twin_params, range(100, 105))
    assert same_bits(everything(opt), everything(twin))


def test_a_bad_first_step_leaves_a_fresh_start():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = learning(params), learning(twin_params)
    give_gradients(params, 0)
    params[1].grad[0] = float("nan")
    opt.step()
    train(opt, params, range(5))
    train(twin, twin_params, range(5))
    assert same_bits(everything(opt), everything(twin))


def test_a_bad_hypergradient_freezes_the_coefficients_and_not_the_run():
    """A rule of a third party, whose derivative in `a` is infinite at 0 while its update is finite."""

    def update(c, g, s, t):
        return g * (1 + c["a"].sqrt() + 0.1 * c["b"]), {}

    rule = Rule("steep", update, (Coefficient("a", "a", UNIT, 0.0), Coefficient("b", "b", UNIT, 0.5)), ())
    p = torch.nn.Parameter(torch.ones(3))
    opt = HyperOptimizer([p], lr=0.1, rule=rule, learn=HyperSGD("all", start=0))
    train(opt, [p], range(4))
    assert not math.isfinite(opt.hypergradients()["a"])
    assert math.isfinite(opt.hypergradients()["b"])
    assert opt.coefficients() == {"a": 0.0, "b": 0.5}
    assert p.isfinite().all()
    assert not torch.equal(p, torch.ones(3))
    opt.param_groups[0]["a"].fill_(0.25)
    train(opt, [p], range(4, 6))
    assert opt.coefficients()["b"] != 0.5


@pytest.mark.parametrize("rule", ["mada", "mada_released"])
def test_learning_nothing_is_bit_equal_to_a_hyper_learning_rate_of_zero(rule):
    """The hypergradient, computed or not, must not touch the update."""
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "beta3": 0.1, "rho": 0.6, "c": 0.9, "gamma": 0.9, "rule": rule}
    plain = MADA(params, learn=(), **options)
    learned = MADA(twin_params, learn=HyperSGD("all", lr=0.0, start=0), **options)
    for seed in range(30):
        train(plain, params, [seed])
        train(learned, twin_params, [seed])
        assert same_bits(list(params), list(twin_params))
    assert any(learned.hypergradients().values())


def test_gradients_are_left_as_they_are():
    params = parameters()
    opt = learning(params)
    give_gradients(params, 0)
    before = [p.grad.clone() for p in params]
    opt.step()
    assert same_bits([p.grad for p in params], before)


def test_the_previous_gradient_is_a_copy():
    """A gradient zeroed in place after the step (set_to_none=False) must not zero the memory of it."""
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = learning(params), learning(twin_params)
    for seed in range(5):
        train(opt, params, [seed])
        opt.zero_grad(set_to_none=False)
        train(twin, twin_params, [seed])
    assert same_bits(everything(opt), everything(twin))


def test_reading_changes_nothing():
    params = parameters()
    opt = learning(params)
    train(opt, params, range(4))
    before = everything(opt)
    opt.coefficients(), opt.hypergradients(), opt.state_dict(), repr(opt), [opt.slots(p) for p in params]
    assert same_bits(everything(opt), before)
