"""The trace that lr is learned from, and the end of learning.

Catches: a trace that is not the decayed displacement of the weights (its decay taken twice, weight decay left out, an
update that was skipped taken in), one that is kept where nobody reads it, and coefficients that move after their end.
"""

import copy

import pytest
import torch

from mada_optim import MADA, Adam, HyperOptimizer
from tests.problems import give_gradients, parameters, same_bits, train


def tracing(params, learn=("lr",), **options):
    """An optimizer that learns lr from its trace."""
    options = {"horizon": 0.9, "lr": 1e-2, "weight_decay": 0.1, "hyper_start": 1, **options}
    return MADA(params, learn=learn, hyper_lr=1e-2, **options)


def double(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((5, 3), (4,), ())]


@pytest.mark.parametrize("learn", [("lr",), ("beta1", "rho", "lr")], ids=["lr alone", "with others"])
def test_the_hypergradient_is_taken_along_the_decayed_displacement(learn):
    params = double()
    opt, trace = tracing(params, learn), [torch.zeros_like(p) for p in params]
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
    opt = HyperOptimizer([p], rule="sgd", lr=0.1, weight_decay=0.5, learn="lr", horizon=0.999, hyper_start=10**6)
    for _ in range(400):
        p.grad = torch.tensor([-1.0], dtype=torch.float64)
        opt.step()
    assert p.item() == pytest.approx(2.0)
    assert opt.hypergradients()["lr"] == pytest.approx(0.0, abs=1e-6)


def test_a_short_trace_is_the_hypergradient_of_one_step():
    """Up to a second order in lr weight_decay: the trace has the displacement itself."""
    params, twins = (p := double()), copy.deepcopy(p)
    traced, one_step = tracing(params, horizon=1e-12, hyper_clip=1e9), tracing(twins, horizon=0.0, hyper_clip=1e9)
    train(traced, params, range(4))
    train(one_step, twins, range(4))
    assert traced.hypergradients()["lr"] == pytest.approx(one_step.hypergradients()["lr"], rel=1e-6) != 0


def test_where_lr_alone_is_learned_a_trace_is_all_that_is_kept():
    params = parameters()
    opt = Adam(params, learn=("lr",), horizon=0.99)
    train(opt, params, range(2))
    assert set(opt.state[params[0]]) == {"step", *opt.rule.slot_names(), "anchor"}
    assert opt.memory().bytes["anchor"] == 4 * sum(p.numel() for p in params)
    other = Adam(parameters(), learn=("lr",))
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


def test_a_horizon_without_a_learned_lr_is_refused():
    with pytest.raises(ValueError, match=r"horizon=0.9: expected 'lr' in learn"):
        MADA(parameters(), learn="beta1", horizon=0.9)
    with pytest.raises(ValueError, match=r"horizon=1.0: expected a number in \[0, 1\)"):
        tracing(parameters(), horizon=1.0)


def test_after_hyper_stop_coefficients_stay():
    params = parameters()
    opt = MADA(params, lr=1e-3, hyper_lr=0.01, hyper_start=1, hyper_stop=3, hyper_averaging=0.0)
    train(opt, params, range(3))
    then = opt.coefficients()
    train(opt, params, range(3, 6))
    assert opt.coefficients() == then
    assert then != MADA(parameters(), lr=1e-3).coefficients()
    with pytest.raises(ValueError, match="hyper_stop=-1"):
        MADA(parameters(), hyper_stop=-1)
