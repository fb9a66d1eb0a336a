"""A training step that torch.compile compiles moves weights and state as a plain one.

Catches: a step that is traced, whose counts are then constants of the graph; a step that reads a weight or a learning
rate which the graph has changed only in a copy; a compilation for each new number.
"""

import copy
import logging

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from mada_optim import MADA, Adam, AutoMuon, HyperAdam
from tests.problems import everything, fast, same_bits

#: With it, the compiler traces `backward`; older versions of torch break the graph there.
TRACES_BACKWARD = "trace_autograd_ops"
needs_backward = pytest.mark.skipif(
    not hasattr(torch._dynamo.config, TRACES_BACKWARD), reason="this torch can't compile `backward`"
)
KINDS = {
    "six coefficients": (torch.float32, lambda params: MADA(params, lr=torch.tensor(0.1), learn=fast(lr=1e-2))),
    "matrices, bf16": (torch.bfloat16, lambda params: AutoMuon(params, lr=torch.tensor(0.1))),
    "per tensor, eager, fp64": (
        torch.float64,
        lambda params: HyperAdam(params, lr=torch.tensor(0.1), engine="eager", learn=fast("beta1", scope="tensor")),
    ),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Graphs of other tests count to the compiler's limits; that a graph breaks is no news here."""
    torch._dynamo.reset()
    counters.clear()
    torch._logging.set_logs(dynamo=logging.ERROR)
    yield
    torch._logging.set_logs()
    torch._dynamo.reset()


def tracing_backward():
    return torch._dynamo.config.patch(TRACES_BACKWARD, True)


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def training_step(model, opt):
    def step(x):
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()

    return step


def training_step_with_loss(model, opt):
    def step(x):
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        opt.step()
        return loss.detach()

    return step


def batch(seed, dtype):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_compiled_is_plain(make, dtype, of_step=training_step, schedule=lambda opt, step: None, **options):
    """Of two equal networks, one takes compiled steps and the other plain ones."""
    runs = []
    for compiled in (True, False):
        model = network(dtype)
        opt = make(model.named_parameters())
        step = of_step(model, opt)
        runs.append((opt, torch.compile(step, backend="aot_eager", **options) if compiled else step))
    for seed in range(4):
        results = []
        for opt, step in runs:
            schedule(opt, seed)
            result = step(batch(seed, dtype))
            results.append([*everything(opt), *([] if result is None else [result])])
        for x, y in zip(*results, strict=True):  # the compiler may round gradients otherwise
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    assert {float(state["step"]) for state in runs[0][0].state.values() if state} == {4.0}


def fill_lr(opt, step):
    opt.param_groups[0]["lr"].fill_(0.1 / (1 + step))


def alone(check):
    """Runs a check in a process of its own: where the compiler has traced `backward`, torch 2.13 takes variables of one
    compiled function for those of another, with any optimizer."""
    process = torch.multiprocessing.get_context("spawn").Process(target=check)
    process.start()
    process.join(240)
    assert process.exitcode == 0


@needs_backward
def test_a_whole_training_step_is_one_graph_compiled_once():
    """With an lr that is scheduled in place."""
    alone(check_whole_steps)


def check_whole_steps():
    for dtype, make in KINDS.values():
        torch._dynamo.reset()
        counters.clear()
        with tracing_backward():
            assert_compiled_is_plain(make, dtype, training_step_with_loss, fill_lr, fullgraph=True)
        assert counters["stats"]["unique_graphs"] == 1


@needs_backward
def test_operations_of_the_graph_before_and_after_the_step_see_its_tensors_in_order():
    """A schedule and a clamp before it, and a weight and a coefficient read after it."""
    alone(check_order)


def check_order():

    def make(params):
        return MADA(params, lr=torch.tensor(0.1), learn=fast(lr=1e-2))

    def of_step(model, opt):
        lr, weight, beta1 = opt.param_groups[0]["lr"], model[0].weight, opt.param_groups[0]["beta1"]

        def step(x):
            model(x).square().mean().backward()
            with torch.no_grad():
                lr.mul_(0.5)
                weight.clamp_(-0.2, 0.2)
            opt.step()
            opt.zero_grad()
            return weight.detach().sum() + beta1

        return step

    with tracing_backward():
        assert_compiled_is_plain(make, torch.float32, of_step, fullgraph=True)


def float_lr(opt, step):
    opt.param_groups[0]["lr"] = 0.1 / (1 + step)


def test_a_graph_that_breaks_at_backward_is_compiled_once_whatever_numbers_change():
    assert_compiled_is_plain(HyperAdam, torch.float32, schedule=float_lr)
    (reason,) = counters["graph_break"]
    assert "backward" in str(reason)
    assert counters["stats"]["unique_graphs"] == 2  # the forward pass, and the step


@pytest.mark.parametrize(("cls", "dtype"), [(Adam, torch.float64), (AutoMuon, torch.bfloat16)])
def test_a_compiled_step_alone(cls, dtype):
    """`torch.compile(opt.step)`, on given gradients. The first parameter has none."""
    params = [nn.Parameter(x.detach().clone()) for x in network(dtype).parameters()]
    opt = cls(params)
    twin = copy.deepcopy(opt)
    step = torch.compile(opt.step, backend="aot_eager", fullgraph=True)
    for seed in range(4):
        torch.manual_seed(seed)
        for p, q in zip(params[1:], twin.param_groups[0]["params"][1:], strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        step()
        twin.step()
    assert same_bits(everything(opt), everything(twin))


def test_a_closure_breaks_the_graph():
    def of_step(model, opt):
        def step(x):
            def closure():
                opt.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                return loss.detach()

            return opt.step(closure)

        return step

    assert_compiled_is_plain(HyperAdam, torch.float32, of_step)


def test_a_parameter_added_later_is_compiled_in():
    model = network(torch.float32)
    opt, extra = Adam(model.parameters()), nn.Parameter(torch.ones(3))
    step = torch.compile(opt.step, backend="eager", fullgraph=True)
    for p in (*model.parameters(), extra):
        p.grad = torch.ones_like(p)
    step()
    opt.add_param_group({"params": [extra]})
    step()
    assert [int(opt.state[p]["step"]) for p in (model[0].bias, extra)] == [2, 1]


def test_a_list_of_groups_put_in_the_place_of_the_old_one_is_refused_once():
    model = network(torch.float32)
    opt = Adam(model.parameters())
    step = torch.compile(opt.step, backend="eager", fullgraph=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    step()
    opt.param_groups = list(opt.param_groups)
    with pytest.raises(RuntimeError, match="param_groups: expected the list"):
        step()
    step()
    assert int(opt.state[model[0].bias]["step"]) == 2


def test_gradients_are_as_they_were_after_a_graph_that_fails():
    """A gradient that the optimizer refuses leaves all of them in place, and the caller's mode of gradients."""
    model = network(torch.float32)
    opt = Adam(model.parameters())
    step = torch.compile(opt.step, backend="eager", fullgraph=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = [p.grad for p in model.parameters()]
    opt.param_groups[0]["learning_rate"] = 0.1
    with pytest.raises(ValueError, match="learning_rate"):
        step()
    assert torch.is_grad_enabled()
    assert all(p.grad is g for p, g in zip(model.parameters(), before, strict=True))
