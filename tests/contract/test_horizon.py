"""The trace that lr is learned from, and the end of learning.

Catches: a trace that is not the decayed displacement of the weights (its decay taken twice, weight decay left out, an
update that was skipped taken in), one that is kept where nobody reads it, and coefficients that move after their end.
"""

import copy
from dataclasses import dataclass

import pytest
import torch

from mada_optim import MADA, Adam, AutoMuon, HyperOptimizer, HyperSGD, LearnedLR
from mada_optim.learning.learner import Learner
from tests.problems import along_trace, give_gradients, parameters, same_bits, train

OTHERS = [HyperSGD("beta1", "rho", lr=1e-2, start=1)]


def tracing(params, others=(), **numbers):
    """An optimizer that learns lr from its trace."""
    return MADA(params, lr=1e-2, learn=[*others, along_trace(**numbers)], weight_decay=0.1)


def double(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((5, 3), (4,), ())]


@pytest.mark.parametrize("others", [(), OTHERS], ids=["lr alone", "with others"])
def test_the_hypergradient_is_taken_along_the_decayed_displacement(others):
    params = double()
    opt, trace = tracing(params, others), [torch.zeros_like(p) for p in params]
    for seed in range(8):
        give_gradients(params, seed)
        expected = sum((p.grad * s).sum() for p, s in zip(params, trace, strict=True))
        before = [p.detach().clone() for p in params]
        opt.step()
        assert opt.hypergradients()["lr"] == pytest.approx(float(expected), rel=1e-6, abs=1e-12)
        keep = 1 - 0.1 * opt.coefficients()["lr"]
        trace = [0.9 * keep * s + p.detach() - b for s, p, b in zip(trace, params, before, strict=True)]
    assert abs(opt.coefficients()["lr"] / 1e-2 - 1) > 1e-4


def test_weights_that_decay_holds_where_they_are_ask_for_nothing():
    """They have forgotten their start: no lr would have brought them elsewhere. Updates of size 1, against a decay."""
    p = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    opt = HyperOptimizer([p], rule="sgd", lr=0.1, weight_decay=0.5, learn=along_trace(horizon=0.999, start=10**6))
    for _ in range(400):
        p.grad = torch.tensor([-1.0], dtype=torch.float64)
        opt.step()
    assert p.item() == pytest.approx(2.0)
    assert opt.hypergradients()["lr"] == pytest.approx(0.0, abs=1e-6)


def test_a_short_trace_is_the_hypergradient_of_one_step():
    """Up to a second order in lr weight_decay: the trace has the displacement itself."""
    params, twins = (p := double()), copy.deepcopy(p)
    short, one_step = tracing(params, horizon=1e-12, clip=1e9), tracing(twins, horizon=0.0, clip=1e9)
    train(short, params, range(4))
    train(one_step, twins, range(4))
    assert short.hypergradients()["lr"] == pytest.approx(one_step.hypergradients()["lr"], rel=1e-6) != 0


def test_where_lr_alone_is_learned_a_trace_is_all_that_is_kept():
    params = parameters()
    opt = Adam(params, learn=along_trace(horizon=0.99))
    train(opt, params, range(2))
    assert set(opt.state[params[0]]) == {"step", *opt.rule.slot_names(), "anchor"}
    assert opt.memory().bytes["anchor"] == 4 * sum(p.numel() for p in params)
    other = Adam(parameters(), learn="lr")
    assert "gradient" in other.memory().bytes
    assert "anchor" not in other.memory().bytes


def test_a_step_that_does_not_count_leaves_the_trace():
    params = parameters()
    opt = tracing(params)
    train(opt, params, range(3))
    give_gradients(params, 3)
    params[0].grad.view(-1)[0] = torch.nan
    before = {name: x.clone() for name, x in opt.state[params[1]].items()}
    opt.step()
    assert same_bits(list(before.values()), list(opt.state[params[1]].values()))


def test_a_saved_trace_goes_on_bit_by_bit():
    params = parameters()
    opt = tracing(params)
    train(opt, params, range(4))
    twins = copy.deepcopy(params)
    again = tracing(twins)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(opt, params, range(4, 8))
    train(again, twins, range(4, 8))
    assert same_bits(params, twins)
    with pytest.raises(ValueError, match="same `learn`"):
        tracing(parameters(), horizon=0.0).load_state_dict(opt.state_dict())


@dataclass(frozen=True)
class Looking(Learner):
    """Somebody else's, with a horizon."""

    names: tuple[str, ...] = ("lr",)
    horizon: float = 0.5

    def step(self, q, h, memory, info):
        return q - 1e-2 * h, memory


def test_a_horizon_is_of_any_learner():
    params, twins = (p := parameters()), copy.deepcopy(p)
    ours = MADA(params, lr=1e-2, weight_decay=0.1, learn=along_trace(horizon=0.5, start=0))
    theirs = MADA(twins, lr=1e-2, weight_decay=0.1, learn=Looking())
    train(ours, params, range(6))
    train(theirs, twins, range(6))
    assert same_bits(params, twins)
    assert ours.coefficients()["lr"] != 1e-2


def test_a_horizon_without_a_learned_lr_is_refused():
    with pytest.raises(ValueError, match=r"horizon=0.9: expected 'lr' among the names, whose trace it decays"):
        MADA(parameters(), learn=Looking(names=("beta1",), horizon=0.9))
    with pytest.raises(ValueError, match=r"horizon=1.0: expected a number in \[0, 1\)"):
        LearnedLR(horizon=1.0)
    with pytest.raises(ValueError, match=r"horizon=1.0: expected a number in \[0, 1\)"):
        MADA(parameters(), learn=Looking(horizon=1.0))


def test_after_its_stop_a_learner_rests():
    params = parameters()
    opt = AutoMuon(params, lr=1e-3, learn=LearnedLR(rate=0.01, start=1, stop=3, averaging=0.0))
    train(opt, params, range(3))
    then = opt.coefficients()["lr"]
    train(opt, params, range(3, 6))
    assert opt.coefficients()["lr"] == then
    assert then != AutoMuon(parameters(), lr=1e-3).coefficients()["lr"]
    with pytest.raises(ValueError, match="stop=-1"):
        LearnedLR(stop=-1)
