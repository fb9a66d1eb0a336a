"""Closures: called once, with gradients on, their loss passed through; one that raises leaves everything as it was.

Catches: a closure that is called per group, under no_grad or after the step, and state changed before it.
"""

import pytest
import torch

from tests.problems import everything, same_bits
from tests.representatives import on_one_engine
from tests.torch_checks.infos import each_info, each_mode
from tests.torch_checks.problems import least_squares

pytestmark = on_one_engine


@each_mode
def test_a_closure_is_called_once_with_gradients_enabled(case):
    problem = least_squares()
    opt, calls = case.make([{"params": [p]} for p in problem.params]), []

    def closure():
        calls.append(torch.is_grad_enabled())
        return problem.backward(opt)

    with torch.no_grad():
        loss = opt.step(closure)
        assert not torch.is_grad_enabled()
    opt.step(closure=closure)
    assert calls == [True, True]
    assert loss.item() > 0
    assert loss.requires_grad


@each_mode
def test_a_step_with_a_closure_is_the_step_after_a_backward(case):
    problem = least_squares()
    other = problem.twin()
    opt, twin = case.make(problem.params), case.make(other.params)
    for _ in range(3):
        loss = opt.step(lambda: problem.backward(opt))
        expected = other.backward(twin)
        assert twin.step() is None
        assert torch.equal(loss, expected)
    assert same_bits(everything(opt), everything(twin))


@pytest.mark.parametrize("loss", [1.5, torch.tensor([2.0]), None], ids=str)
@each_info
def test_what_a_closure_returns_is_passed_through(info, loss):
    problem = least_squares()
    opt = info.optim_cls(problem.params)
    assert opt.step(lambda: loss) is loss


@each_mode
def test_a_closure_that_raises_leaves_all_untouched(case):
    problem = least_squares()
    opt = case.make(problem.params)
    problem.train(opt, 3)
    before = everything(opt)

    def closure():
        problem.backward(opt)
        raise RuntimeError("out of data")

    with pytest.raises(RuntimeError, match="out of data"):
        opt.step(closure)
    assert same_bits(everything(opt), before)
    problem.train(opt, 1)
    assert opt.state[problem.params[0]]["step"] == 4
