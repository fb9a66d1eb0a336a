"""Rows of the polar factor that are made about equal in size: NorMuon, and `nu` of the rule for hidden matrices.

Catches: columns in the place of rows, a mean over several matrices of one parameter, a norm that changes, a slot that
counts a skipped step, a row without a gradient that turns into NaN.
"""

import pytest
import torch
from torch import nn

from mada_optim import AutoMuon, HyperOptimizer, NorMuon
from mada_optim.matrices.polar_factor import orthogonal
from mada_optim.matrices.rows import row_factors, row_mean_squares
from tests import oracles
from tests.problems import everything, fast, same_bits


def weights(*shapes, dtype=torch.float64):
    return [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(dtype)) for shape in shapes]


def drawn(p, seed):
    return torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(p.dtype)


def trained(opt, params, steps=5):
    for seed in range(steps):
        for i, p in enumerate(params):
            p.grad = drawn(p, 10 * seed + i)
        opt.step()
    return opt


@pytest.mark.parametrize("shape", [(4, 6), (6, 3), (5, 5), (1, 4)])
def test_its_direction_is_that_of_the_paper(shape):
    """The paper's update has a root mean square of exactly .2; this one has the norm of the polar factor."""
    (p,) = weights(shape)
    opt, gs = NorMuon([p], lr=1.0), []
    for seed in range(6):
        gs.append(drawn(p, seed))
        p.grad, before = gs[-1].clone(), p.detach().clone()
        opt.step()
        u = before - p.detach()
        expected = oracles.normuon(gs, 0.95, 0.95)
        torch.testing.assert_close(0.2 * u / u.square().mean().sqrt(), expected, rtol=1e-6, atol=1e-12)  # our eps
        o = orthogonal(oracles.nesterov(gs, 0.95))
        torch.testing.assert_close(u.norm(), 0.2 * o.norm(), rtol=1e-9, atol=0.0)


def test_nu_0_is_muon_and_keeps_no_slot():
    ours, theirs = weights((4, 6)), weights((4, 6))
    first = trained(NorMuon(ours, lr=0.1, nu=0.0), ours)
    trained(HyperOptimizer(theirs, lr=0.1, rule="muon"), theirs)
    assert same_bits(ours, theirs)
    assert "r" not in first.memory().bytes


def test_a_slot_has_one_number_per_row():
    params = weights((4, 6), (3, 8, 5), (6, 2, 3, 3), dtype=torch.float32)
    opt = trained(AutoMuon([{"params": params, "matrix": True}], nu=1.0, learn=()), params)
    batch = trained(AutoMuon([{"params": params, "matrix": "batched"}], nu=1.0, learn=()), params)
    assert [tuple(opt.state[p]["r"].shape) for p in params] == [(4,), (3,), (6,)]
    assert [tuple(batch.state[p]["r"].shape) for p in params] == [(4,), (3, 8), (6, 2, 3)]
    assert opt.memory().bytes["r"] == 4 * (4 + 3 + 6)


@pytest.mark.parametrize(("matrix", "shape"), [("batched", (3, 5, 4)), (3, (15, 4))])
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_each_matrix_of_a_parameter_is_evened_by_itself(engine, matrix, shape):
    dtype = torch.float32
    (whole,) = weights(shape, dtype=dtype)
    parts = [nn.Parameter(x.detach().clone()) for x in whole.detach().reshape(3, 5, 4)]
    options = {"lr": 0.1, "nu": 0.8, "learn": (), "weight_decay": 0.0, "engine": engine}
    one = AutoMuon([{"params": [whole], "matrix": matrix}], **options)
    each = AutoMuon([{"params": parts, "matrix": True}], **options)
    for seed in range(5):
        whole.grad = drawn(whole, seed)
        for p, g in zip(parts, whole.grad.reshape(3, 5, 4), strict=True):
            p.grad = g.clone()
        one.step()
        each.step()
    torch.testing.assert_close(whole.detach().reshape(3, 5, 4), torch.stack([p.detach() for p in parts]))
    slots = torch.stack([each.slots(p)["r"] for p in parts])
    torch.testing.assert_close(one.slots(whole)["r"].reshape(3, 5), slots)


def test_rows_become_even():
    """With the memory of one step, all rows have the same size, and the norm is as before."""
    o = orthogonal(torch.randn(12, 4, dtype=torch.float64))
    r = row_mean_squares(o)
    even = o * row_factors(o, r)
    sizes = even.norm(dim=1)
    torch.testing.assert_close(sizes, sizes.mean().expand(12), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(even.norm(), o.norm())
    assert o.norm(dim=1).std() > 0.1


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("learn", [(), fast("nu")], ids=["fixed", "learned"])
def test_rows_without_a_gradient_stay(engine, learn):
    """A row of zeros, and then a matrix of zeros."""
    (p,) = weights((4, 3), dtype=torch.float32)
    opt = HyperOptimizer([p], lr=0.1, rule="normuon", learn=learn, nu=0.5, engine="auto" if not learn else "eager")
    start = p.detach().clone()
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        opt.step()
    assert same_bits([p], [start])
    for seed in range(3):
        p.grad = drawn(p, seed)
        p.grad[1] = 0.0
        opt.step()
    assert p.isfinite().all()
    assert same_bits([p[1]], [start[1]])
    assert not same_bits([p[0]], [start[0]])


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_a_gradient_that_is_not_finite_changes_no_slot(engine):
    params = weights((4, 6), (3,), dtype=torch.float32)
    opt = trained(AutoMuon([{"params": params, "matrix": True}], nu=1.0, engine=engine), params, 2)
    before = everything(opt)
    params[0].grad = torch.full((4, 6), torch.inf)
    opt.step()
    assert same_bits(everything(opt), before)


@pytest.mark.parametrize("state_dtype", [torch.bfloat16, "8bit"])
def test_its_slot_stays_in_single_precision(state_dtype):
    (p,) = weights((80, 64), dtype=torch.float32)
    opt = trained(AutoMuon([{"params": [p], "matrix": True}], nu=1.0, state_dtype=state_dtype), [p], 2)
    assert opt.state[p]["b"].dtype is not torch.float32
    assert opt.state[p]["r"].dtype is torch.float32


def test_a_slot_of_another_shape_is_refused():
    (p,) = weights((4, 6), dtype=torch.float32)
    opt = trained(AutoMuon([{"params": [p], "matrix": True}], nu=1.0, learn=()), [p], 1)
    opt.state[p]["r"] = torch.ones(6)
    with pytest.raises(RuntimeError, match=r"'r': expected the size \(4,\), got \(6,\)"):
        opt.step()
