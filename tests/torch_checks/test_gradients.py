"""Gradients that are absent, zero, empty or sparse, and layers that are frozen for a while, disturb nothing.

Catches: a state made or a step counted for a parameter that has no gradient, a 0/0, a gradient written into.
"""

import pytest
import torch

from tests.problems import everything, same_bits
from tests.torch_checks.infos import each_mode
from tests.torch_checks.problems import least_squares


def loss_without_gradients():
    return torch.tensor([1.0])


@each_mode
def test_parameters_without_gradient_stay_and_get_no_state(case):
    params = [torch.randn(2, 3, requires_grad=needs) for needs in (False, True)]
    opt = case.make(params)
    before = everything(opt)
    opt.step(loss_without_gradients)
    opt.step()
    assert same_bits(everything(opt), before)
    assert not opt.state


@each_mode
def test_zero_gradients_from_the_start_move_nothing(case):
    """Each rule's update is 0 there, 0/0 included; weights still decay where they are told to."""
    p = torch.nn.Parameter(torch.randn(5, 1))
    before = p.detach().clone()
    opt = case.make([p], weight_decay=0.0)
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        opt.step(loss_without_gradients)
    assert torch.equal(p, before)
    assert all(x.isfinite().all() for x in everything(opt))


@each_mode
def test_empty_parameters_change_nothing_for_the_others(case):
    problem = least_squares()
    alone = problem.twin()
    empty = [torch.nn.Parameter(torch.empty(shape)) for shape in [(0,), (0, 3), (2, 0, 3)]]
    opt, twin = case.make([*empty, *problem.params]), case.make(alone.params)
    for _ in range(3):
        problem.backward(opt)
        for p in empty:
            p.grad = torch.empty_like(p)
        opt.step()
        alone.train(twin, 1)
    assert all(map(torch.equal, problem.params, alone.params))
    assert opt.coefficients() == twin.coefficients()


@each_mode
def test_gradients_are_read_and_left_as_they_are(case):
    problem = least_squares()
    opt = case.make(problem.params)
    for _ in range(3):
        problem.backward(opt)
        gradients = [p.grad for p in problem.params]
        before = [g.clone() for g in gradients]
        opt.step()
        assert all(p.grad is g for p, g in zip(problem.params, gradients, strict=True))
        assert same_bits(gradients, before)


@each_mode
def test_state_is_there_after_a_step(case):
    problem = least_squares()
    opt = case.make(problem.params)
    problem.train(opt, 1)
    assert set(opt.state) == set(problem.params)
    assert all(opt.state[p]["step"] == 1 for p in problem.params)


@each_mode
def test_a_frozen_layer_stays_and_goes_on_where_it_was(case):
    """Frozen in steps 3 and 4 of 7: its weights, its slots and its count stay, and the count goes on from there."""
    problem = least_squares()
    weight, bias = problem.params
    opt = case.make(problem.params)
    for step in range(7):
        bias.requires_grad_(step not in (3, 4))
        before = [bias.detach().clone(), *(x.clone() for x in opt.state[bias].values())]
        problem.train(opt, 1)
        after = [bias.detach(), *opt.state[bias].values()]
        assert same_bits(before, after) == (step in (3, 4)), step
    assert (opt.state[weight]["step"], opt.state[bias]["step"]) == (7, 5)


@pytest.mark.parametrize("coalesced", [True, False])
@each_mode
def test_a_sparse_gradient_is_refused_before_anything_changes(case, coalesced):
    problem = least_squares()
    bias = problem.params[1]
    opt = case.make(problem.params)
    problem.train(opt, 2)
    before = everything(opt)
    problem.backward(opt)
    bias.grad = torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (4,), check_invariants=True)
    bias.grad = bias.grad.coalesce() if coalesced else bias.grad
    with pytest.raises(RuntimeError, match=f"{case.info.name} does not support sparse gradients"):
        opt.step()
    assert same_bits(everything(opt), before)
