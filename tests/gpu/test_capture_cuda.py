"""A training step in a CUDA graph, and one that torch.compile compiles, against plain ones on a device.

Catches: what the replays on the CPU (tests/engine/test_capture.py) don't show: a call that CUDA forbids in a capture,
memory that is freed and used again, kernels whose tables a capture has not filled.
"""

import copy

import pytest
import torch

from mada_optim import MADA, Adam, AutoMuon, LearnedLR
from tests.problems import everything, fast, same_bits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
KINDS = {
    "none learned": lambda params, lr: Adam(params, lr=lr),
    "six": lambda params, lr: MADA(params, lr=lr, learn=fast(lr=1e-2)),
    "matrices": lambda params, lr: AutoMuon(params, lr=lr, learn=LearnedLR(start=1)),
    "reference": lambda params, lr: MADA(params, lr=lr, learn=fast(lr=1e-2), engine="eager"),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def twins(make):
    """Two equal training steps: the input, the optimizer, and the step, each."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)
    first = torch.nn.Sequential(*layers).cuda()
    return [training(model, make) for model in (first, copy.deepcopy(first))]


def training(model, make):
    opt = make(model.named_parameters(), torch.tensor(1e-2, device="cuda"))
    x = torch.zeros(32, 8, device="cuda")

    def step():
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()

    return x, opt, step


def feed(x, opt, seed):
    x.copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))
    if seed == 6:
        x[0, 0] = float("nan")
    opt.param_groups[0]["lr"].fill_(1e-2 / (1 + seed))


@kinds
def test_replays_of_a_training_step_are_the_steps(make):
    (x, opt, step), (other_x, other, other_step) = twins(make)
    feed(x, opt, 0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    feed(other_x, other, 0)
    for _ in range(3):
        other_step()
    for seed in range(1, 10):
        feed(x, opt, seed)
        graph.replay()
        feed(other_x, other, seed)
        other_step()
    for ours, plain in zip(everything(opt), everything(other), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)  # products may be computed otherwise
    assert opt.skipped_steps == other.skipped_steps == 1


@kinds
def test_a_plain_step_after_a_capture_is_a_step(make):
    """Tables that the capture has sent have no numbers before the first replay."""
    (x, opt, step), (other_x, other, other_step) = twins(make)
    for inputs, of_inputs, one in ((x, opt, step), (other_x, other, other_step)):
        feed(inputs, of_inputs, 0)
        one()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        opt.step()
    opt.step()
    other.step()
    assert same_bits(everything(opt), everything(other))


@kinds
def test_a_compiled_training_step_is_the_plain_one(make):
    torch._dynamo.reset()
    (x, opt, step), (other_x, other, other_step) = twins(make)
    compiled = torch.compile(step)
    for seed in range(8):
        feed(x, opt, seed)
        compiled()
        feed(other_x, other, seed)
        other_step()
    for ours, plain in zip(everything(opt), everything(other), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)


def test_a_first_step_in_a_capture_is_refused():
    ((_, opt, step), _) = twins(KINDS["six"])
    step()
    opt.state.clear()
    with pytest.raises(RuntimeError, match="step once before"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        opt.step()


@kinds
def test_a_later_step_never_synchronizes(make):
    (x, opt, step), _ = twins(make)
    for seed in range(4):
        feed(x, opt, seed)
        step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            opt.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
