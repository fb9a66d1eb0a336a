"""The trials of small changes, on a few steps instead of hundreds: each is what it is called.

Catches: a benchmark that has drifted from the library; a default that isn't the bench's run; a decay by hand that isn't
the built-in one; a change of other parameters than those it names; ratios to the default of another seed.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import trials
from mada_lab.experiments.bench.tasks import TASKS
from mada_lab.tasks.open_data import open_data
from mada_lab.training.trainer import train
from mada_optim import AutoMuon
from tests.app.conftest import Silent


@pytest.fixture
def config(tmp_path):
    small = {
        "max_iters": 4,
        "warmup_iters": 1,
        "eval_interval": 4,
        "eval_iters": 2,
        "batch_size": 4,
        "n_embd": 32,
        "n_layer": 1,
    }
    return replace(TASKS["gpt_pydoc"].config, data_dir=str(tmp_path), out_dir=str(tmp_path / "run"), **small)


def test_the_default_is_the_benchs_run_and_decay_by_hand_the_built_in_one(config):
    losses = {name: trials.losses_of(config, trials.VARIANTS[name])[""] for name in trials.VARIANTS}
    run = train(replace(config, optimizer="automuon"), open_data(config), Silent())
    assert losses["default"] == run.val_loss
    assert losses["decay .3 by hand"] == pytest.approx(losses["default"], rel=1e-6)
    others = [losses[name] for name in losses if name != "decay .3 by hand"]
    assert len({round(x, 7) for x in others}) == len(others)


def network():
    torch.manual_seed(0)
    layers = {"first": nn.Linear(8, 8), "second": nn.Linear(8, 8), "head": nn.Linear(8, 7)}
    net = nn.ModuleDict({"embedding": nn.Embedding(7, 8), **layers})
    return net, AutoMuon([{"params": [x]} for x in net.named_parameters()], lr=0.01)


def test_beta2_is_of_vectors_or_of_embeddings_alone():
    for vectors, changed in (
        (True, {"first.bias", "second.bias", "head.bias"}),
        (False, {"embedding.weight", "head.weight"}),
    ):
        _, opt = network()
        trials.beta2(0.997, vectors, opt, 1)
        assert {g["param_names"][0] for g in opt.param_groups if float(g["beta2"]) == 0.997} == changed


def test_the_steps_of_matrices_differ_by_their_noise_and_their_mean_stays():
    net, opt = network()
    trials.signal_to_noise(1.0, opt, 3)
    for _ in range(3):  # the first matrix has the same gradient in each step, the second has noise
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        net["first"].weight.grad = torch.ones(8, 8)
        opt.step()
    ratios = [g["matrix_lr_ratio"] for g in opt.param_groups if g["hidden_matrices"][0]]
    assert sum(ratios) == pytest.approx(2 * 2.0)
    momentum = torch.tensor([0.9025, 0.95, 1.0]) / 2.8525  # of three gradients without common part
    assert ratios[1] / ratios[0] == pytest.approx(momentum.square().sum().sqrt().item(), rel=0.2)


def test_decay_by_hand_is_the_built_in_one_and_so_is_the_trace_of_lr():
    ends = []
    for by_hand in (False, True):
        net, opt = network()
        if by_hand:
            trials.decay_by_hand(0.3, False, opt, 5)
        for p in (*net.parameters(),) * 5:
            torch.manual_seed(p.numel())
            p.grad = torch.randn_like(p)
            if p is [*net.parameters()][-1]:
                opt.step()
        ends.append([(p.detach(), (p - opt.state[p]["anchor"]).detach()) for p in net.parameters()])
    for (p, trace), (q, other) in zip(*ends, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other, trace, rtol=1e-4, atol=1e-6)


def test_cautious_decay_is_where_the_step_shrinks():
    moved = []
    for cautious in (False, True):
        net, opt = network()
        trials.decay_by_hand(0.3, cautious, opt, 1)
        weight = net["embedding"].weight
        with torch.no_grad():
            weight.fill_(1.0)
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        weight.grad[1] = -1.0  # this row grows
        opt.step()
        moved.append(weight.detach()[:2, 0] - 1)
    assert moved[0][0] == moved[1][0]
    assert moved[1].tolist() == pytest.approx([-0.01 - 0.003, 0.01])
    assert moved[0][1].item() == pytest.approx(0.01 - 0.003, rel=1e-4)


def test_ratios_are_to_the_default_of_the_same_seed():
    found = {("t", "default", 1): {"": 2.0, "EMA 10": 1.0}, ("t", "default", 2): {"": 4.0, "EMA 10": 3.0}}
    found |= {("t", "flat", 1): {"": 1.0}, ("t", "flat", 2): {"": 4.0}}
    lines = [" ".join(line.split()) for line in trials.table(found, ["t"]).splitlines()]
    assert lines[0].endswith("t 3.0000 all")
    assert "default, EMA 10 0.625 [0.500, 0.750] 0.625" in lines
    assert "flat 0.750 [0.500, 1.000] 0.750" in lines
