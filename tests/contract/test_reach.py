"""How far a hyper-step goes, and what is still believed after it.

Catches: a step beyond its reach, by whatever moves the coefficients; evidence that outlives the move it led to, which
carries a coefficient past where it should stop; a reach that changes something where none is set.
"""

import math

import pytest
import torch

from mada_optim import LearnedLR
from tests.contract.test_learner import AVERAGED, learned, learning, parameter, train
from tests.problems import along_trace, step_info
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

ONE = torch.ones(1, 1, dtype=torch.float64)


def test_no_step_goes_farther_than_its_reach():
    p = parameter()
    opt, path = learning(p, **AVERAGED, reach=0.1, rate=100.0), []
    for step in range(30):
        train(opt, p, 1, start=step)
        path.append(learned(opt))
    steps = torch.tensor(path).diff().abs()
    assert steps.max() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("moved", [0.0, 0.05, -0.1])
def test_evidence_counts_the_less_the_farther_the_coefficient_has_gone(moved):
    learner, kept = LearnedLR(reach=0.1), math.exp(-abs(moved) / 0.1)
    mean, weight, noise = (x.item() for x in learner.forget(moved * ONE, 0.3 * ONE, 0.5 * ONE, 0.2 * ONE))
    assert (mean, weight) == pytest.approx((0.3 * kept, 0.5 * kept))
    assert noise == pytest.approx(0.2 * kept**2)  # a variance


def test_after_a_move_the_next_waits_for_new_evidence():
    """Hypergradients of one sign, then of the other: with a reach the coefficient turns at once."""
    assert turns_after(reach=0.05) <= 3 < turns_after(reach=0.0)


def turns_after(reach):
    """How many hypergradients of the other sign it takes until the coefficient goes their way."""
    info = step_info(ends=(-99.0, 99.0))
    learner = along_trace(rate=1.0, memory=0.999, averaging=0.9, reach=reach, clip=1.0)
    q, path = 0 * ONE, []
    memory = learner.init(q, info)
    for sign in [-1.0] * 20 + [1.0] * 20:
        q, memory = learner.step(q, sign * ONE, memory, info)
        path.append(q.item())
    return next(n for n in range(20) if path[20 + n] < path[19 + n])


def test_a_reach_of_0_changes_no_bit():
    ends = []
    for options in ({"reach": 0.0}, {"reach": 1e300}):
        p = parameter()
        opt = learning(p, **AVERAGED, **options)
        train(opt, p, 12)
        ends.append(learned(opt))
    assert ends[0] == ends[1] != 0.0


@pytest.mark.parametrize("own", [{"averaging": 0.0}, {"memory": 0.0, "averaging": 0.0}], ids=["one step", "raw"])
def test_reach_holds_however_far_the_step_would_go(own):
    p = parameter()
    opt, path = learning(p, **{"rate": 1e9, "reach": 0.1, "horizon": 0.9, **own}), []
    for step in range(8):
        train(opt, p, 1, start=step)
        path.append(learned(opt))
    assert torch.tensor(path).diff().abs().max() == pytest.approx(0.1, rel=1e-4)
