"""Triton's kernels on a CUDA device against the eager engine there.

Catches: what the interpreter on the CPU doesn't show: a race between programs, arithmetic of the device, a read on the
host, an address that a captured graph has lost, a kernel that is compiled anew when a number changes.
"""

import copy

import pytest
import torch

from mada_optim import MADA, HyperOptimizer
from mada_optim.rules import RULES
from tests.engine.test_cpu_kernel import CORNERS, POINTWISE, SPREAD_OF_MADA, close, learners
from tests.gpu.device import DEVICE, ON_CUDA, TRITON, needs_cuda, needs_device, needs_triton, no_synchronization
from tests.gradient.test_sensitivity import SPREAD
from tests.problems import everything, fast, same_bits

pytestmark = [needs_device, needs_triton]
SHAPES = [(300, 211) if ON_CUDA else (5, 3), (1,), (), (17,), (2049,), (0, 3), (64, 32)]


def twins_on_cuda(rule, learn, start=None, engine="eager", hyper=None, **options):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in SHAPES]
    start = {q.name: SPREAD[q.name] for q in RULES[rule].coefficients} if start is None else start
    options = {
        "rule": rule,
        "learn": learners(learn, **(hyper or {})),
        "lr": 1e-2,
        "weight_decay": 0.1,
        **start,
        **options,
    }
    twins = copy.deepcopy(params)
    return (
        params,
        HyperOptimizer(params, engine=TRITON, **options),
        twins,
        HyperOptimizer(twins, engine=engine, **options),
    )


def give(step, *lists):
    """The same gradients to each, written into those that there are, so that addresses stay."""
    generator = torch.Generator(DEVICE).manual_seed(step)
    for each in zip(*lists, strict=True):
        g = torch.randn(each[0].shape, generator=generator, device=DEVICE).to(each[0].dtype)
        for p in each:
            p.grad = g.clone() if p.grad is None else p.grad.copy_(g)


def assert_equal_runs(params, fast, twins, slow, rtol=2e-5, steps=10 if ON_CUDA else 3):
    assert (fast.engine, fast.engine_reasons, slow.engine) == ("triton", [], "eager")
    for step in range(steps):
        give(step, params, twins)
        with no_synchronization(but_for=step == 0):  # state is made at the first step
            fast.step()
        slow.step()
        for p, q in zip(params, twins, strict=True):
            assert close(p.detach(), q.detach(), rtol), step
            mine, theirs = fast.slots(p), slow.slots(q)
            assert all(close(mine[name], theirs[name], rtol) for name in theirs), step
        if fast.learned:
            mine, theirs = (torch.tensor(list(opt.hypergradients().values())) for opt in (fast, slow))
            assert ((mine - theirs).abs() <= 10 * rtol * theirs.abs().clamp(min=0.1)).all()


@pytest.mark.parametrize("learn", ["all", ("lr",), ()], ids=str)
@pytest.mark.parametrize("rule", POINTWISE)
def test_equal_to_the_eager_engine_without_synchronisation(rule, learn):
    assert_equal_runs(*twins_on_cuda(rule, learn))


@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.bfloat16}], ids=["fp32", "bf16"])
def test_aligned_tensors_whose_elements_are_read_four_at_once(options, monkeypatch):
    monkeypatch.setattr("tests.gpu.test_triton_cuda.SHAPES", [(300, 212) if ON_CUDA else (5, 4), (2052,), (64, 32)])
    run = twins_on_cuda("mada", "all", **options)
    assert_equal_runs(*run, rtol=2**-7 if options else 2e-5)


@pytest.mark.parametrize("learn", [("beta1", "lr"), ()], ids=["learning", "fixed"])
@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner, learn):
    at = dict(zip(("beta3", "rho", "c", "gamma"), CORNERS[corner], strict=True))
    assert_equal_runs(*twins_on_cuda("mada", learn, start={**SPREAD_OF_MADA, **at}))


@pytest.mark.parametrize("hyper", [{}, {"horizon": 0.9}], ids=["one step", "traced"])
def test_bf16_slots(hyper):
    learn = (*RULES["mada"].coefficient_names(), "lr")
    assert_equal_runs(*twins_on_cuda("mada", learn, state_dtype=torch.bfloat16, hyper=hyper), rtol=2**-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_parameters_of_16_bits(dtype):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, device=DEVICE, dtype=dtype)) for shape in SHAPES]
    twins = copy.deepcopy(params)
    learner = fast(start=2)
    ours, slow = (MADA(x, lr=1e-2, learn=learner, engine=e) for x, e in ((params, "triton"), (twins, "eager")))
    for step in range(6):
        give(step, params, twins)
        ours.step()
        slow.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)
        assert ((p != q).float().sum() <= 0.02 * p.numel()) or p.numel() < 50  # a rounding on the other side


def test_a_gradient_that_is_not_finite_changes_no_bit_and_runs_repeat_bit_for_bit():
    ends = []
    for _ in range(2):
        params, fast, _, _ = twins_on_cuda("mada", "all")
        for step in range(4):
            give(step, params)
            fast.step()
        ends.append(everything(fast))
        params[0].grad[-1, -1] = float("nan")
        fast.step()
        assert same_bits(everything(fast), ends[-1])
    assert same_bits(*ends)


@needs_cuda
@pytest.mark.parametrize("learn", ["all", ()], ids=str)
def test_a_captured_step_is_the_step(learn):
    params, fast, twins, other = twins_on_cuda("mada", learn, engine="triton")
    give(0, params, twins)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            fast.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fast.step()
    for _ in range(3):
        other.step()
    for step in range(1, 5):
        give(step, params, twins)
        graph.replay()
        other.step()
    torch.cuda.synchronize()
    assert same_bits(everything(fast), everything(other))


@needs_cuda
def test_a_new_lr_compiles_nothing():
    from triton import knobs

    compiled = []
    params = [torch.nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in SHAPES]
    opt = MADA(params, learn=fast(start=2))
    for step in range(6):
        opt.param_groups[0]["lr"] = 1e-2 / (step + 1)
        give(step, params)
        opt.step()
        if step == 2:
            knobs.runtime.jit_post_compile_hook = lambda **what: compiled.append(what["repr"])
    knobs.runtime.jit_post_compile_hook = None
    assert compiled == []
