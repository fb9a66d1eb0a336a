"""Coefficients that are pushed against a bound for long, and then the other way.

Catches: a velocity that winds up on a bound and holds a coefficient there, or that becomes infinite and then NaN; a
projection that is forgotten; an end of an interval that a coefficient can't leave since a derivative vanishes there.
"""

import math

import pytest
import torch

from mada_optim import HyperSGD, HyperTorch, StepInfo
from mada_optim.learning.bank import Bank
from mada_optim.learning.hyper_step import hyper_step
from mada_optim.rule import UNIT
from mada_optim.rules import RULES
from tests.numerics.driver import Driver

MOMENTA = (0.0, 0.5, 0.9, 0.99, 0.999)


def learner(momentum, lr=1e3, rebound=2.0):
    return HyperSGD("q", lr=lr, momentum=momentum, clip=math.inf, start=0, rebound=rebound)


def middle():
    return torch.full((1, 1), 0.5, dtype=torch.float64)


def in_the_unit_interval():
    """What a learner is told of a step that counts and moves."""
    zero, yes = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.bool)
    return StepInfo(("q",), zero, zero + 1, (0.1,), zero + 1, yes, yes, 0.0, zero.clone)


def push(one, q, memory, h, steps):
    """The coefficient and the memory after so many steps along the same hypergradient."""
    info = in_the_unit_interval()
    memory = one.init(q, info) if memory is None else memory
    for _ in range(steps):
        q, memory = one.step(q, torch.full_like(q, h), memory, info)
        q = torch.clamp(q, info.low, info.high)  # as the optimizer does, which keeps the old one where it is NaN
        assert memory["velocity"].isfinite().all()
        assert q.isfinite().all()
    return q, memory


@pytest.mark.parametrize("bound", [0.0, 1.0])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_a_coefficient_leaves_its_bound_as_soon_as_the_sign_turns(momentum, size, bound):
    """However long and hard it was pushed: at the first step, or with momentum at the second."""
    outward = 1e20 * (1 - 2 * bound)
    one = learner(momentum, lr=1e35)
    q, memory = push(one, middle(), None, outward, 1000)
    assert q.item() == bound
    q, _ = push(one, q, memory, -math.copysign(size, outward), 2 if momentum else 1)
    assert q.item() != bound


def test_without_a_rebound_all_of_the_velocity_is_kept():
    """As in the authors' code: it has to be used up before the coefficient leaves its bound."""
    one = learner(0.9, rebound=math.inf)
    q, memory = push(one, middle(), None, -1.0, 1000)
    assert memory["velocity"].item() == pytest.approx(-10.0)
    q, memory = push(one, q, memory, 1.0, 6)
    assert q.item() == 1.0
    assert memory["velocity"].item() == pytest.approx(-(0.9**6) * 20 + 10)
    q, _ = push(one, q, memory, 1.0, 1)
    assert q.item() != 1.0


def test_inside_its_interval_a_coefficient_has_all_its_momentum():
    q, memory = push(learner(0.5, lr=1e-3), middle(), {"velocity": torch.full_like(middle(), -16.0)}, 1.0, 3)
    assert memory["velocity"].item() == -0.25
    assert q.item() == pytest.approx(0.5 + 1e-3 * (7 + 2.5 + 0.25))


@pytest.mark.parametrize("momentum", MOMENTA)
def test_the_largest_hypergradients_there_are(momentum):
    """Their sum overflows, and infinity less infinity, or times an lr of 0, is NaN."""
    largest = torch.finfo(torch.float64).max
    for lr, final in ((1e3, 1.0), (0.0, 0.5)):
        one = learner(momentum, lr=lr)
        q, memory = push(one, middle(), None, largest, 20)
        q, _ = push(one, q, memory, -largest, 2 if momentum else 1)
        assert q.item() == pytest.approx(final)


def test_an_optimizer_of_coefficients_that_proposes_nan_moves_nothing():
    """Adam without eps: 0 / 0 where a hypergradient is 0. It goes on from the coefficient, not from the NaN."""
    learner = HyperTorch("q", make=lambda leaves: torch.optim.Adam(leaves, lr=0.1, eps=0.0), start=0)
    bank = Bank(learner, {"q": UNIT}, {"q": 0.1}, 0)
    bank.add_group({"q": middle()[0, 0]}, 1)
    bank.begin(None)
    found = []
    for h in (1.0, 0.0, 0.0, 1.0):  # the first is before there is a step to differentiate
        hyper_step(bank, torch.full_like(middle(), h), torch.ones(1, dtype=torch.bool), lambda: [middle()[0, 0]])
        found.append(bank.coefficients().item())
    assert found[:3] == [0.5] * 3
    assert found[3] != 0.5
    assert math.isfinite(found[3])


LEARNABLE = [
    (engine, rule, q, momentum)
    for rule in RULES
    for engine in (("eager", "auto") if rule in ("adam", "mada") else ("eager",))  # a program for each coefficient
    for q in (*RULES[rule].coefficient_names(), "lr")
    if rule != "lion" or q == "lr"  # its betas have no derivative at all
    for momentum in ((0.0, 0.9) if rule == "mada" else (0.0,))
]


@pytest.mark.parametrize(("engine", "rule", "name", "momentum"), LEARNABLE)
def test_gradients_drive_a_coefficient_from_bound_to_bound(engine, rule, name, momentum):
    one = Driver(rule, name, momentum, engine)
    for bound, outward in ((one.interval.low, 0.02), (one.interval.high, -0.02)):
        for _ in range(3):
            one.step(outward)
        assert one.value() == bound
        for _ in range(2 if momentum else 1):
            one.step(-outward)
        assert one.value() != bound
