"""Weights that the user changes between two steps: the trace that lr is learned from is of what really moved.

Catches: moves that a mask, a clamp or a norm has taken back and the trace still counts, by which a learned lr runs
away; changes that are noticed in one way of writing to a tensor and not in another; an anchor that a narrow dtype, a
first step that doesn't count, or a load in another order spoils.
"""

import copy

import pytest
import torch

from mada_optim import MADA, Adam, HyperOptimizer
from tests.problems import along_trace, give_gradients, parameters, train

HORIZON, DECAY = 0.9, 0.1


def tracing(params, **options):
    return MADA(params, lr=1e-2, learn=along_trace(horizon=HORIZON), weight_decay=DECAY, **options)


def masked(params, _):
    for p in params:
        p.mul_(torch.arange(p.numel()).view_as(p) % 3 > 0)


def clamped(params, _):
    torch._foreach_clamp_max_(params, 0.3)
    torch._foreach_clamp_min_(params, -0.3)


def clamped_by_data(params, _):
    for p in params:
        p.data.clamp_(-0.3, 0.3)


def of_unit_rows(params, _):
    for p in (p for p in params if p.ndim == 2):
        p.div_(p.norm(dim=1, keepdim=True))


def in_one_vector(params, _):
    whole = torch.nn.utils.parameters_to_vector(params)
    torch.nn.utils.vector_to_parameters(whole / whole.norm(), params)


def replaced(params, step):
    """As by a state dict of other weights, halfway."""
    if step == 4:
        for p in params:
            p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))


def drawn_back(params, step):
    """Every third step, halfway to where they were: to 0."""
    if step % 3 == 2:
        torch._foreach_mul_(params, 0.5)


CHANGES = [masked, clamped, clamped_by_data, of_unit_rows, in_one_vector, replaced, drawn_back]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("change", CHANGES)
def test_the_trace_is_of_what_really_moved(change, dtype):
    """Its oracle adds up moves, those of the step and those of the user alike."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((5, 3), (4,), ())]
    opt, traces = tracing(params), [torch.zeros_like(p, dtype=torch.float64) for p in params]
    rtol = 1e-6 if dtype is torch.float64 else 1e-4
    for step in range(12):
        give_gradients(params, step)
        parts = [(p.grad.double() * s).sum() for p, s in zip(params, traces, strict=True)]
        before = [p.detach().to(torch.float64, copy=True) for p in params]
        opt.step()
        assert opt.hypergradients()["lr"] == pytest.approx(float(sum(parts)), rel=rtol, abs=rtol)
        with torch.no_grad():
            change(params, step)
        kept = HORIZON * (1 - DECAY * opt.coefficients()["lr"])
        traces = [kept * s + p.detach().double() - x for s, p, x in zip(traces, params, before, strict=True)]
    assert any(s.abs().max() > 0.01 for s in traces)


def pushed(change, steps):
    """The hypergradient of ln lr where a constant gradient pushes weights, and `change` has them stay."""
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    opt = HyperOptimizer([p], lr=0.1, rule="sgd", learn=along_trace(start=10**6))
    for _ in range(steps):
        p.grad = torch.tensor([-1.0, 0.0])
        opt.step()
        with torch.no_grad():
            change(p)
    return opt.hypergradients()["lr"]


@pytest.mark.parametrize(
    "change",
    [lambda p: p.clamp_(max=3.5), lambda p: p.data.clamp_(max=3.5), lambda p: p.mul_(torch.tensor([0.0, 1.0]))],
    ids=["clamp", "clamp of data", "mask"],
)
def test_weights_that_the_user_holds_where_they_are_ask_for_nothing(change):
    assert pushed(change, 200) == pytest.approx(0.0, abs=1e-5)
    assert pushed(lambda p: None, 200) == pytest.approx(-1.0, rel=1e-4)  # -.1 / (1 - horizon)


def test_a_mask_is_forgotten_as_the_horizon_says():
    """3 at the start, 0 after every step: in the trace there are -3 horizon^(t-2) at step t."""
    for t in (2, 3, 10):
        assert pushed(lambda p: p.zero_(), t) == pytest.approx(3.0 * 0.9 ** (t - 2), rel=1e-5)


def test_the_anchor_begins_where_the_first_step_that_counts_finds_the_weights():
    params = parameters()
    opt = tracing(params)
    give_gradients(params, 0)
    params[0].grad.view(-1)[0] = torch.nan
    opt.step()
    with torch.no_grad():
        params[0].add_(1.0)
    found = params[0].detach().clone()
    train(opt, params, range(1, 2))
    assert torch.equal(opt.state[params[0]]["anchor"], found)


def test_the_anchor_is_as_exact_as_the_weights_are_computed():
    """In the dtype of slots, it would be off by more than the weights have moved."""
    for dtype, expected in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        params = parameters(dtype)
        opt = tracing(params, state_dtype=torch.bfloat16)
        assert opt.memory().bytes["anchor"] == 4 * sum(p.numel() for p in params)
        train(opt, params, range(3))
        assert {opt.state[p]["anchor"].dtype for p in params} == {expected}
        assert {opt.state[p]["m"].dtype for p in params} == {torch.bfloat16}


def test_the_trace_stays_exact_over_many_steps():
    """600 steps of a ten-thousandth of a weight, in fp32, against a sum in fp64."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(1000, generator=generator))
    opt, trace = Adam([p], lr=1e-4, learn=along_trace(horizon=0.9999, start=10**6)), torch.zeros(1000).double()
    for _ in range(600):
        p.grad = torch.randn(1000, generator=generator) + 0.1
        before = p.detach().double()
        opt.step()
        trace = 0.9999 * trace + p.detach().double() - before
    measured = p.detach().double() - opt.state[p]["anchor"].double()
    assert (measured - trace).norm() <= 1e-3 * trace.norm()


@pytest.mark.parametrize("weights_first", [True, False])
def test_weights_may_be_loaded_before_the_state_or_after(weights_first):
    params = parameters()
    opt = tracing(params)
    train(opt, params, range(4))
    twins = parameters()
    again, state = tracing(twins), copy.deepcopy(opt.state_dict())
    train(again, twins, range(7, 9))

    def load_weights():
        with torch.no_grad():
            torch._foreach_copy_(twins, params)

    for load in (load_weights, lambda: again.load_state_dict(state))[:: 1 if weights_first else -1]:
        load()
    train(opt, params, range(4, 8))
    train(again, twins, range(4, 8))
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_a_state_without_its_anchor_is_refused():
    params = parameters()
    opt = tracing(params)
    train(opt, params, range(2))
    state = opt.state_dict()
    for of_parameter in state["state"].values():
        del of_parameter["anchor"]
    with pytest.raises(ValueError, match=r"'anchor': expected a tensor of shape .*, got nothing"):
        tracing(parameters()).load_state_dict(state)
