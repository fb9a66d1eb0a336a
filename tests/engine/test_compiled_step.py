"""A training step that torch.compile runs moves weights and state as a plain one, for every preset and dtype.

Catches: a step that is traced, whose counts and averages of ones are then constants of the graph.
"""

import copy
import logging

import pytest
import torch
from torch import nn

from mada_optim import MADA, Adam, AutoMuon, HyperAdam
from tests.problems import everything
from tests.torch_checks.infos import LEARNING, each_info

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Graphs of other tests count to the compiler's limits; that a step breaks the graph is no news here."""
    torch._dynamo.reset()
    torch._logging.set_logs(dynamo=logging.ERROR)
    yield
    torch._logging.set_logs()
    torch._dynamo.reset()


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def training_step(model, opt):
    def step(x):
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        opt.step()

    return step


def train(make, dtype, compiled):
    model = network(dtype)
    opt = make(model.named_parameters())
    step = training_step(model, opt)
    step = torch.compile(step, backend="aot_eager") if compiled else step
    for seed in range(4):
        step(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)).to(dtype))
    return opt


def assert_compiled_is_plain(make, dtype):
    compiled, plain = (train(make, dtype, x) for x in (True, False))
    assert {float(state["step"]) for state in compiled.state.values()} == {4.0}
    for x, y in zip(everything(compiled), everything(plain), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_info
def test_a_compiled_training_step_is_the_plain_one(info, dtype):
    assert_compiled_is_plain(info.optim_cls, dtype)


@pytest.mark.parametrize("options", [{"learn": ()}, LEARNING], ids=["plain", "learning"])
def test_a_compiled_training_step_with_more_or_less_to_learn(options):
    assert_compiled_is_plain(lambda params: MADA(params, **options), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cls", [Adam, HyperAdam, MADA, AutoMuon])
def test_a_compiled_step_changes_the_same_bits(cls, dtype):
    """`torch.compile(opt.step)` alone, on given gradients."""
    params = [nn.Parameter(x.detach().clone()) for x in network(dtype).parameters()]
    opt = cls(params)
    twin = copy.deepcopy(opt)
    step = torch.compile(opt.step, backend="aot_eager")
    for seed in range(4):
        torch.manual_seed(seed)
        for p, q in zip(params, twin.param_groups[0]["params"], strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        step()
        twin.step()
    assert all(map(torch.equal, everything(opt), everything(twin)))


def test_a_step_inside_a_whole_graph_is_refused_by_the_compiler():
    """It says so, instead of leaving the step out."""
    model = network(torch.float32)
    opt = AutoMuon(model.named_parameters())
    step = torch.compile(training_step(model, opt), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        step(torch.randn(8, 4))
