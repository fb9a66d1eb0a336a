"""The fast engine against the eager one in PyTorch's own sequence: what its tests ask of foreach and fused.

Catches: a step count, a slot or a coefficient that the loops move where the eager engine leaves it, around a step
without gradients and a layer that is frozen for two.
"""

import copy
import unittest

import pytest
import torch

from tests.torch_checks.infos import each_case
from tests.torch_checks.torch_helpers import TensorTracker

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def engine():
    """Both engines are in each test."""


class Comparison(unittest.TestCase):
    """What TensorTracker asks of a test case. Sums in double precision too are of numbers computed in fp32."""

    def assertEqual(self, first, second):  # noqa: N802, unittest's name
        torch.testing.assert_close(first, second, rtol=1.3e-6, atol=1e-5)


def network():
    torch.manual_seed(1)
    layers = [torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1), torch.nn.Sigmoid()]
    return torch.nn.Sequential(*layers), torch.nn.Parameter(torch.rand(()))


def step(model, scalar, opt, i):
    """Step i of 7: no gradients at all at 2, the second linear layer frozen from 3 to 4."""
    opt.zero_grad()
    model[2].requires_grad_(i not in (3, 4))
    if i != 2:
        inputs = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).reshape(3, 2)
        (model(inputs).sum() + scalar**2).backward()
    opt.step()


def watched(opt):
    """Parameters, their states, and what is learned."""
    for group in opt.param_groups:
        yield from (x for x in group.values() if isinstance(x, torch.Tensor))
        for p in group["params"]:
            yield p
            yield from opt.state[p].values()


@each_case
def test_the_fast_engine_is_the_eager_engine(case):
    pair = [network(), copy.deepcopy(network())]
    eager, fast = (
        case.make([*model.parameters(), scalar], engine=name)
        for (model, scalar), name in zip(pair, ("eager", "auto"), strict=True)
    )
    tracker, test = TensorTracker(), Comparison()
    for i in range(7):
        for (model, scalar), opt in zip(pair, (eager, fast), strict=True):
            step(model, scalar, opt, i)
        for x in watched(eager):
            tracker.add(x)
        for x in watched(fast):  # compared, and set to the same, so that rounding doesn't add up
            tracker.pop_check_set(x, test)
        assert tracker.all_popped(), i
    assert eager.state[pair[0][0][2].weight]["step"] == 4
