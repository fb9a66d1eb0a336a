"""Every preset lowers a loss, and raises it with maximize, on two problems, with and without schedulers.

Catches: a sign, an lr or a decay that is not the group's. It proves nothing else about a rule: the corners do.
"""

import pytest
import torch

from tests.torch_checks.infos import ROSENBROCK_LR, each_case, each_info, each_mode
from tests.torch_checks.problems import least_squares, rosenbrock
from tests.torch_checks.schedules import COMPOUNDS


def went_right(case, before, after):
    return after > before if case.kwargs().get("maximize") else after < before


@each_case
def test_least_squares(case):
    problem = least_squares()
    before = problem.value()
    problem.train(case.make(problem.params), 10)
    assert went_right(case, before, problem.value())


@each_mode
def test_least_squares_with_strided_parameters(case):
    problem = least_squares(contiguous=False)
    before = problem.value()
    problem.train(case.make(problem.params), 10)
    assert went_right(case, before, problem.value())


@each_case
def test_rosenbrock(case):
    """Descent by both coordinates, then by one at a time, so that each misses every second gradient."""
    problem = rosenbrock()
    before = problem.value()
    opt = case.make(problem.params, lr=ROSENBROCK_LR[case.info.name])
    problem.train(opt, 10)
    halfway = problem.value()
    assert went_right(case, before, halfway)
    for step in range(10):
        problem.backward(opt)
        problem.params[0].grad[step % 2] = 0.0
        opt.step()
    assert went_right(case, halfway, problem.value())


@pytest.mark.parametrize("schedules", COMPOUNDS, ids=range(len(COMPOUNDS)))
@each_info
def test_least_squares_with_schedulers_and_groups(info, schedules):
    problem = least_squares()
    weight, bias = problem.params
    before = problem.value()
    opt = info.optim_cls([{"params": [weight]}, {"params": [bias], "lr": 0.01}])
    problem.train(opt, 10, [make(opt) for make in schedules])
    assert problem.value() < before


@each_mode
def test_a_group_with_hardly_any_lr_stays_and_the_other_goes(case):
    problem = least_squares()
    still = torch.nn.Parameter(torch.randn(2))
    before, at = problem.value(), still.detach().clone()
    opt = case.make([{"params": problem.params, "lr": 1e-2}, {"params": [still]}], lr=1e-28)
    for _ in range(6):
        problem.backward(opt)
        still.grad = torch.rand_like(still)
        opt.step()
    assert went_right(case, before, problem.value())
    assert torch.equal(still, at)


@each_mode
def test_decay_of_a_group(case):
    """With weight_decay on the weights alone, as is usual: both go the right way, and only the weights decay."""
    problem = least_squares()
    plain, before = problem.twin(), problem.value()
    weight, bias = problem.params
    start = weight.detach().clone()
    opt = case.make([{"params": [weight], "weight_decay": 0.5}, {"params": [bias], "weight_decay": 0.0}])
    problem.train(opt, 1)
    plain.train(case.make(plain.params, weight_decay=0.0), 1)
    lr = opt.coefficients().get("lr", opt.param_groups[0]["lr"])  # a learned one is not that of the group
    decay = float(lr) * 0.5
    torch.testing.assert_close(weight.detach(), plain.params[0].detach() - decay * start)
    assert torch.equal(bias, plain.params[1])
    problem.train(opt, 5)
    assert went_right(case, before, problem.value())
