"""Coefficients that are pushed against a bound for long, and then the other way.

Catches: a velocity that winds up on a bound and holds a coefficient there, or that becomes infinite and then NaN; a
projection that is forgotten; an end of an interval that a coefficient can't leave since a derivative vanishes there.
"""

import math

import pytest
import torch

from mada_optim.hyper.learner import ExternalLearner, Learner
from mada_optim.rules import RULES
from tests.numerics.driver import Driver

MOMENTA = (0.0, 0.5, 0.9, 0.99, 0.999)


def learner(momentum, lr=1e3, limit=math.inf):
    one = torch.ones(1, dtype=torch.float64)
    return Learner(lr * one, momentum * one, 0.0 * one, one, limit=limit, start=0)


def push(one, q, velocity, h, steps):
    """The coefficient and the velocity after so many steps along the same hypergradient."""
    for _ in range(steps):
        q, velocity = one.step(q, one.clip(torch.full_like(q, h)), velocity)
        q = one.project(q)
        assert velocity.isfinite().all()
        assert ((one.low <= q) & (q <= one.high)).all()
    return q, velocity


@pytest.mark.parametrize("bound", [0.0, 1.0])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_a_coefficient_leaves_its_bound_as_soon_as_the_sign_turns(momentum, size, bound):
    """However long and hard it was pushed: at the first step, or with momentum at the second."""
    outward, start = 1e20 * (1 - 2 * bound), torch.full((1,), 0.5, dtype=torch.float64)
    one = learner(momentum, lr=1e35)
    q, velocity = push(one, start, torch.zeros_like(start), outward, 1000)
    assert q.item() == bound
    q, _ = push(one, q, velocity, -math.copysign(size, outward), 2 if momentum else 1)
    assert q.item() != bound


def test_inside_its_interval_a_coefficient_has_all_its_momentum():
    q, velocity = push(learner(0.5, lr=1e-3), torch.full((1,), 0.5, dtype=torch.float64), torch.tensor([-16.0]), 1.0, 3)
    assert velocity.item() == -0.25
    assert q.item() == pytest.approx(0.5 + 1e-3 * (7 + 2.5 + 0.25))


@pytest.mark.parametrize("momentum", MOMENTA)
def test_the_largest_hypergradients_there_are(momentum):
    """Their sum overflows, and infinity less infinity, or times a hyper_lr of 0, is NaN."""
    largest, start = torch.finfo(torch.float64).max, torch.full((1,), 0.5, dtype=torch.float64)
    for lr, final in ((1e3, 1.0), (0.0, 0.5)):
        one = learner(momentum, lr=lr)
        q, velocity = push(one, start, torch.zeros_like(start), largest, 20)
        q, velocity = push(one, q, velocity, -largest, 2 if momentum else 1)
        assert q.item() == pytest.approx(final)


def test_an_external_learner_that_proposes_nan_moves_nothing():
    """Adam without eps: 0 / 0 where a hypergradient is 0."""
    q = torch.full((1,), 0.5, dtype=torch.float64)
    external = ExternalLearner(lambda leaves: torch.optim.Adam(leaves, lr=0.1, eps=0.0), [q])
    yes = torch.ones(1, dtype=torch.bool)
    assert external.step(torch.zeros(1, 1, dtype=torch.float64), yes).item() == 0.5
    q.fill_(0.5)  # as the bank does
    assert external.step(torch.ones(1, 1, dtype=torch.float64), yes).item() != 0.5


LEARNABLE = [
    (engine, rule, q, momentum)
    for rule in RULES
    for engine in ("eager", "auto")
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
