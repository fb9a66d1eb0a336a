"""How far a hyper-step goes, and what is still believed after it.

Catches: a step beyond its reach, by whatever moves the coefficients; evidence that outlives the move it led to, which
carries a coefficient past where it should stop; a reach that changes something where none is set.
"""

import math

import pytest
import torch

from mada_optim import MADA
from mada_optim.hyper.bank import Bank
from mada_optim.hyper.learner import Learner
from mada_optim.hyper.step import hyper_step
from tests.contract.test_learner import AVERAGED, learned, parameter, train

REACHING = {**AVERAGED, "hyper_lr": 1.0, "hyper_reach": 0.1}


def test_no_step_goes_farther_than_its_reach():
    p = parameter()
    opt, path = MADA([p], **{**REACHING, "hyper_lr": 100.0}), []
    for step in range(30):
        train(opt, p, 1, start=step)
        path.append(learned(opt))
    steps = torch.tensor(path).diff().abs()
    assert steps.max() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("moved", [0.0, 0.05, -0.1])
def test_evidence_counts_the_less_the_farther_the_coefficient_has_gone(moved):
    one = torch.ones(1, dtype=torch.float64)
    learner = Learner(*[one] * 4, limit=1.0, start=1, averaging=0.8 * one, reach=0.1 * one)
    kept = math.exp(-abs(moved) / 0.1)
    mean, weight, noise = (x.item() for x in learner.forget(moved * one, 0.3 * one, 0.5 * one, 0.2 * one))
    assert (mean, weight) == pytest.approx((0.3 * kept, 0.5 * kept))
    assert noise == pytest.approx(0.2 * kept**2)  # a variance


def test_after_a_move_the_next_waits_for_new_evidence():
    """Hypergradients of one sign, then of the other: with a reach the coefficient turns at once."""
    assert turns_after(reach=0.05) <= 3 < turns_after(reach=None)


def turns_after(reach):
    """How many hypergradients of the other sign it takes until the coefficient goes their way."""
    one = torch.ones(1, dtype=torch.float64)
    learner = Learner(
        lr=one,
        momentum=0 * one,
        low=-99 * one,
        high=99 * one,
        limit=1.0,
        start=0,
        averaging=0.9 * one,
        reach=None if reach is None else reach * one,
    )
    bank = Bank(("lr",), "global", learner)
    bank.add_group({"log_lr": torch.tensor(0.0, dtype=torch.float64)}, 1)
    path = []
    for sign in [-1.0] * 20 + [1.0] * 20:
        hyper_step(bank, learner, None, [], sign * torch.ones(1, 1, dtype=torch.float64), torch.tensor([True]))
        path.append(bank.columns["log_lr"].item())
    return next(n for n in range(20) if path[20 + n] < path[19 + n])


def test_a_reach_of_0_changes_no_bit():
    ends = []
    for options in ({}, {"hyper_reach": 0.0}, {"hyper_reach": 1e300}):
        p = parameter()
        opt = MADA([p], **AVERAGED, **options)
        train(opt, p, 12)
        ends.append(learned(opt))
    assert ends[0] == ends[1] == ends[2]


def test_reach_holds_for_another_optimizer_too():
    p = parameter()
    opt = MADA([p], **REACHING, hyper_optimizer=lambda leaves: torch.optim.SGD(leaves, lr=100.0))
    path = []
    for step in range(8):
        train(opt, p, 1, start=step)
        path.append(learned(opt))
    assert torch.tensor(path).diff().abs().max() == pytest.approx(0.1, rel=1e-4)
