"""lr as a coefficient: what is learned is the logarithm of a factor on the lr that is set or scheduled.

Catches: a factor that a scheduler overwrites, a hyper-parameter that goes to another coefficient's column, bounds taken
of the logarithm, an update with another lr than the one that is read.
"""

import copy
import itertools
import math

import pytest
import torch

from mada_optim import MADA, SGD, AdaGrad, Adam, HyperAdam, HyperOptimizer, HyperSGD, LearnedLR
from mada_optim.rules import RULES
from tests.problems import along_trace, everything, fast, learning, parameters, same_bits, train


def factor(opt):
    return opt.param_groups[0]["log_lr"].exp().item()


def rising(opt, p, steps):
    """Steps with one and the same gradient, along which any lr is too small."""
    for _ in range(steps):
        p.grad = torch.linspace(0.5, 1.5, 8)
        opt.step()


def swinging(opt, p, steps):
    """Steps with a gradient that changes sign each time, for which any lr is too large."""
    for t in range(steps):
        p.grad = (-1.0) ** t * torch.linspace(0.5, 1.5, 8)
        opt.step()


def test_all_is_every_coefficient_but_lr():
    assert MADA(parameters(), learn="all").learned == RULES["mada"].coefficient_names()
    for learn in (["all", "lr"], HyperSGD("all", "lr"), ["all", LearnedLR()], ["rho", "all", "lr"]):
        assert MADA(parameters(), learn=learn).learned == (*RULES["mada"].coefficient_names(), "lr")
    assert MADA(parameters(), learn=("lr", "beta1")).learned == ("beta1", "lr")


@pytest.mark.parametrize("rule", RULES)
def test_a_hyper_learning_rate_of_0_is_the_plain_optimizer(rule):
    """Bit for bit, whether or not the factor is there; also with rules that have nothing else to learn.

    With a trace, where without one the eager engine moves what tiles move in the plain one, which round otherwise.
    """
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    options = {"lr": 1e-2, "rule": rule, "weight_decay": 0.1}
    learner = HyperSGD("lr", lr=0.0, start=0) if RULES[rule].pointwise else along_trace(rate=0.0, horizon=0.5)
    learned = HyperOptimizer(params, learn=learner, **options)
    plain = HyperOptimizer(twin_params, learn=(), **options)
    train(learned, params, range(8))
    train(plain, twin_params, range(8))
    assert same_bits(list(params), list(twin_params))
    assert learned.coefficients() == plain.coefficients() | {"lr": 1e-2}
    assert learned.hypergradients()["lr"] != 0.0


@pytest.mark.parametrize(("cls", "dtype"), [(SGD, torch.float64), (Adam, torch.float64), (Adam, torch.float32)])
def test_the_update_is_made_with_the_lr_that_is_read(cls, dtype):
    """A gradient of ones is the update of SGD, and of Adam without eps."""
    p = torch.nn.Parameter(torch.zeros(8, dtype=dtype))
    eps = {"eps": 0.0} if cls is Adam else {}
    opt = cls([p], lr=0.1, learn=HyperSGD("lr", lr=0.3, start=0), weight_decay=0.5, **eps)
    for _ in range(5):
        before, p.grad = p.detach().clone(), torch.ones_like(p)
        opt.step()
        lr = opt.coefficients()["lr"]
        torch.testing.assert_close(p.detach(), before * (1 - lr * 0.5) - lr, rtol=10 * torch.finfo(dtype).eps, atol=0)
    assert lr > 0.11


def test_two_hyper_steps_by_hand():
    """h = -lr <g, g> with g = 1 in 4 elements: clipped at 0.3, momentum .5, hyper learning rate .2."""
    p = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    opt = SGD([p], lr=0.1, learn=HyperSGD("lr", lr=0.2, momentum=0.5, clip=0.3, start=0))
    logs = []
    for _ in range(3):
        p.grad = torch.ones_like(p)
        opt.step()
        logs.append(opt.param_groups[0]["log_lr"].item())
    assert logs == pytest.approx([0.0, 0.06, 0.06 + 0.2 * (0.15 + 0.3)], rel=1e-5)
    assert opt.hypergradients()["lr"] == pytest.approx(-0.4 * math.exp(0.06))  # before clipping


@pytest.mark.parametrize("still", ["lr", "beta1"])
def test_a_hyper_learning_rate_of_its_own(still):
    params = parameters()
    opt = HyperAdam(params, learn=HyperSGD("beta1", "lr", lr={still: 0.0}, start=0))
    before = opt.coefficients()
    train(opt, params, range(6))
    assert {q for q, x in opt.coefficients().items() if x != before[q]} == {"beta1", "lr"} - {still}


def test_rate_and_momentum_of_each_are_those_of_one_alone():
    """Three coefficients with three pairs of numbers; each velocity is its own hypergradients' sum, and no other's."""
    params = parameters()
    rates, momenta = {"beta1": 1e-3, "beta2": 1e-5, "lr": 1e-2}, {"beta1": 0.0, "beta2": 0.9, "lr": 0.5}
    opt = HyperAdam(params, learn=HyperSGD(*rates, lr=rates, momentum=momenta, start=0, clip=math.inf))
    expected, velocity = {"beta1": 0.9, "beta2": 0.999, "lr": 0.0}, dict.fromkeys(rates, 0.0)
    for seed in range(8):
        train(opt, params, [seed])
        for q, h in opt.hypergradients().items():
            velocity[q] = momenta[q] * velocity[q] + h
            expected[q] -= rates[q] * velocity[q]
    found = opt.coefficients() | {"lr": math.log(opt.coefficients()["lr"] / 1e-3)}
    assert found == pytest.approx(expected, rel=1e-9)


def test_bounds_are_of_the_factor_and_release():
    p = torch.nn.Parameter(torch.zeros(8))
    opt = SGD([p], lr=0.1, learn=HyperSGD("lr", lr=1.0, start=0, bounds={"lr": (0.5, 2.0)}))
    rising(opt, p, 10)
    assert opt.coefficients()["lr"] == pytest.approx(0.2, rel=1e-12)
    swinging(opt, p, 40)
    assert opt.coefficients()["lr"] == pytest.approx(0.05, rel=1e-12)
    rising(opt, p, 2)
    assert 0.05 < opt.coefficients()["lr"] <= 0.2


def test_the_default_bounds_are_four_decades_either_way():
    p = torch.nn.Parameter(torch.zeros(8))
    opt = SGD([p], lr=1e-2, learn=HyperSGD("lr", lr=100.0, start=0))
    rising(opt, p, 10)
    assert opt.coefficients()["lr"] == pytest.approx(1e2, rel=1e-9)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [((0.0, 2.0), r"bounds of lr=0.0: expected a number in \[1e-30, 1e\+30\]"), ((2.0, 0.5), "expected low <= high")],
)
def test_bounds_that_are_no_factors_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        SGD(parameters(), learn=HyperSGD("lr", bounds={"lr": bounds}))


def test_hyper_parameters_of_an_lr_that_is_not_learned_are_refused():
    for name in ("lr", "momentum", "bounds"):
        with pytest.raises(ValueError, match=f"{name} key='lr'"):
            HyperAdam(parameters(), learn=HyperSGD("all", **{name: {"lr": (0.5, 2.0) if name == "bounds" else 0.1}}))


def test_a_schedule_is_multiplied_and_not_overwritten():
    p = torch.nn.Parameter(torch.zeros(8))
    opt = SGD([p], lr=0.1, learn=HyperSGD("lr", lr=0.01, start=0))
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.5**t)
    for t in range(6):
        rising(opt, p, 1)
        assert opt.coefficients()["lr"] == pytest.approx(0.1 * 0.5**t * factor(opt), rel=1e-12)
        schedule.step()
        assert opt.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 ** (t + 1))
    assert factor(opt) > 1.0


def test_groups_keep_their_lr_and_share_the_factor():
    params = parameters()
    groups = [{"params": params[:1], "lr": 1e-2}, {"params": params[1:], "lr": 1e-4}]
    opt = Adam(groups, learn=HyperSGD("lr", start=0))
    train(opt, params, range(6))
    first, second = opt.param_groups
    assert first["log_lr"] is second["log_lr"]
    assert (first["lr"], second["lr"]) == (1e-2, 1e-4)
    assert opt.coefficients()["lr"] == pytest.approx(1e-2 * factor(opt), rel=1e-12) != 1e-2


def test_an_lr_of_0_moves_nothing_and_learns_nothing():
    params = parameters()
    before = [p.detach().clone() for p in params]
    opt = AdaGrad(params, lr=0.0, learn=HyperSGD("lr", start=0))
    train(opt, params, range(4))
    assert same_bits([p.detach() for p in params], before)
    assert factor(opt) == 1.0


def test_lock_step_after_a_load():
    params = parameters()
    learner = fast("rho", "lr", lr={"lr": 0.1})
    opt = learning(params, learn=learner)
    train(opt, params, range(5))
    twin_params = copy.deepcopy(params)
    twin = learning(twin_params, learn=learner)
    twin.load_state_dict(opt.state_dict())
    for seed in itertools.chain(range(5), range(100, 105)):
        train(opt, params, [seed])
        train(twin, twin_params, [seed])
        assert same_bits(everything(opt), everything(twin))
    assert factor(opt) != 1.0
