"""What only a CUDA device shows: no synchronisation in a step, and the same numbers as on the CPU.

Catches: a value read on the host that the CPU's dispatcher doesn't see, a scalar left on the other device.
"""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mada_lab import cli
from mada_optim import AutoMuon, HyperOptimizer, HyperSGD, LearnedLR
from mada_optim.matrices.polar_factor import _minimax_in, polar
from mada_optim.rules import RULES
from tests.gpu.device import DEVICE, needs_cuda, needs_device, no_synchronization
from tests.problems import give_gradients, parameters

pytestmark = needs_device


def on_cuda(params):
    return [torch.nn.Parameter(p.detach().to(DEVICE)) for p in params]


LEARNERS = {"all": HyperSGD("all", lr=1e-3, start=0), "lr": LearnedLR(start=1), "none": ()}


@pytest.mark.parametrize("learn", LEARNERS.values(), ids=LEARNERS)
@pytest.mark.parametrize("rule", RULES)
def test_a_step_on_cuda_is_the_step_on_the_cpu_and_never_synchronises(rule, learn, monkeypatch):
    """But for polar factors in bf16, which are tested below."""
    monkeypatch.setattr("mada_optim.matrices.polar_factor.dtype_of_products", lambda x: x.dtype)
    params = parameters()
    cuda_params = on_cuda(copy.deepcopy(params))
    options = {"rule": rule, "learn": learn, "lr": 1e-2, "weight_decay": 0.1}
    opt, cuda_opt = HyperOptimizer(params, **options), HyperOptimizer(cuda_params, **options)
    for seed in range(6):
        give_gradients(params, seed)
        for p, q in zip(params, cuda_params, strict=True):
            q.grad = p.grad.to(DEVICE)
        opt.step()
        with no_synchronization(but_for=seed == 0):  # state is made at the first step
            cuda_opt.step()
    for p, q in zip(params, cuda_params, strict=True):
        torch.testing.assert_close(p.detach(), q.detach().cpu(), rtol=1e-4, atol=1e-6)
    assert cuda_opt.coefficients() == pytest.approx(opt.coefficients(), rel=1e-4, abs=1e-6)


@needs_cuda
@pytest.mark.parametrize("shape", [(16, 16), (64, 200), (300, 80), (5, 16, 16), (4, 64, 200), (1, 300, 80)], ids=str)
def test_polar_factors_are_taken_in_bf16(shape):
    """As on a CPU that is told to, one by one; the two add up in another order, which bf16 shows."""
    x = torch.randn(shape)
    factor = polar(x.to(DEVICE)).cpu() / max(shape[-2:]) ** 0.5
    for matrix, own in zip(x.view(-1, *shape[-2:]), factor.view(-1, *shape[-2:]), strict=True):
        expected = _minimax_in(torch.bfloat16, matrix).float()
        assert torch.linalg.matrix_norm(own, 2) < 1.4
        assert (own - expected).norm() < 0.03 * expected.norm()


def test_a_state_saved_on_cuda_loads_on_the_cpu_and_back():
    params = parameters()
    cuda_params = on_cuda(params)
    opt, cuda_opt = (HyperOptimizer(x, learn=LEARNERS["all"]) for x in (params, cuda_params))
    for seed in range(3):
        give_gradients(params, seed)
        for p, q in zip(params, cuda_params, strict=True):
            q.grad = p.grad.to(DEVICE)
        cuda_opt.step()
    opt.load_state_dict(cuda_opt.state_dict())
    assert {x.device.type for x in opt.state[params[0]].values()} == {"cpu"}
    assert opt.param_groups[0]["rho"].device.type == "cpu"
    cuda_opt.load_state_dict(opt.state_dict())
    assert {x.device.type for x in cuda_opt.state[cuda_params[0]].values()} == {DEVICE}
    assert cuda_opt.coefficients() == opt.coefficients()


@needs_cuda
def test_the_bench_side_by_side(tmp_path, capsys):
    """On the device, stacked: every run comes to its end."""
    pytest.importorskip("sklearn", reason="scikit-learn ships the digits")
    pytest.importorskip("optuna", reason="the bench's searches need it")
    words = ["bench", "--quick", "--sections=defaults,tuned", "--families=adamw,automuon"]
    words += [f"--device={DEVICE}", "--together=8"]
    cli.run([*words, f"--out={tmp_path / 'out'}", f"--data-dir={tmp_path / 'data'}"])
    assert "failed" not in capsys.readouterr().out


def network(device):
    torch.manual_seed(0)
    sizes = (8, 12, 12, 4)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return torch.nn.Sequential(*layers).to(device)


def trained_by(opt, model, device, steps=4):
    for seed in range(steps):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed)).to(device)
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()


def assert_sharded_is_whole(device, tmp_path):
    """On a mesh of one process: DTensors, and the messages that hidden matrices take."""
    dist.init_process_group(init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh(device, (1,))
        whole, model = network(device), network(device)
        fully_shard(model, mesh=mesh)
        for x in (whole, model):
            trained_by(AutoMuon(x.named_parameters(), learn=LearnedLR(start=1)), x, device)
        for p, q in zip(whole.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(q.full_tensor().detach(), p.detach())
    finally:
        dist.destroy_process_group()


def test_shards_on_a_device_of_its_own(tmp_path):
    assert_sharded_is_whole(DEVICE, tmp_path)
