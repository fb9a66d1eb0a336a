"""Optimizers of others, in the loop: two learning rates, weights that are evaluated elsewhere, checkpoints.

Catches: a resumed run that isn't the one that was stopped, an evaluation that moves the training, Muon on an embedding,
on the classifier or at the wrong rate, a missing package without a word of what to install.
"""

import sys
from dataclasses import replace

import pytest
import pytorch_optimizer
import torch
from torch import nn

from mada_lab.errors import ConfigError
from mada_lab.model.images import CNN, MLP
from mada_lab.optimizers import catalog
from mada_lab.optimizers.baselines import evaluated, hidden_matrices
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train
from mada_optim import NorMuon
from tests.app.conftest import Silent, fitted
from tests.problems import same_bits

PEERS = ("pytorch_optimizer_normuon", "soap", "ademamix", "mars")  # of the package pytorch_optimizer
NEW = ("prodigy", "schedulefree", "torch_muon", *PEERS)


@pytest.mark.parametrize("name", NEW)
def test_a_resumed_run_is_the_same_to_the_bit(tiny, corpus, tmp_path, name):
    """An evaluation of the first part alone, at step 3, must leave no trace either."""
    rates = {"learning_rate": 1.0 if name == "prodigy" else 0.01, "warmup_iters": 2, "lr_decay_iters": 6}
    rates |= {"matrix_lr": 0.02} if name in ("torch_muon", "pytorch_optimizer_normuon") else {}
    config = fitted(tiny, optimizer=name, max_iters=6, eval_interval=6, **rates)
    whole = train(config, corpus, Silent())
    part = replace(config, out_dir=str(tmp_path / "part"), max_iters=3, eval_interval=1)
    train(part, corpus, Silent())
    rest = train(replace(part, max_iters=6, init_from="resume"), corpus, Silent())
    assert same_bits([*whole.model.parameters()], [*rest.model.parameters()])
    assert whole.val_loss == rest.val_loss


@pytest.mark.parametrize("name", ["torch_muon", "pytorch_optimizer_normuon"])
def test_muon_has_hidden_matrices_at_their_own_rate(tiny, corpus, name):
    session = TrainState.start(fitted(tiny, optimizer=name, learning_rate=0.01, matrix_lr=0.03), corpus)
    own = {id(p) for p in hidden_matrices(session.model)}
    names = {name.rsplit(".", 1)[0].split(".")[-1] for name, p in session.model.named_parameters() if id(p) in own}
    assert names == {"c_attn", "c_proj", "c_fc"}
    groups = [g for g in session.optimizer.param_groups if "momentum" in g]
    assert {id(p) for g in groups for p in g["params"]} == own
    assert [g["lr_factor"] for g in groups] == pytest.approx([3.0])
    trained = train(replace(session.config, max_iters=4, decay_lr=False), corpus, Silent()).optimizer
    assert [g["lr"] / 0.01 for g in trained.param_groups] == pytest.approx([3.0, 1.0, 1.0])
    assert len(hidden_matrices(CNN(1, (8, 8), 10, 4))) == 1
    with pytest.raises(ConfigError, match="expected a network with linear layers between"):
        catalog.build(MLP((8, 8, 1), (), 10), fitted(tiny, optimizer=name))


def test_schedule_free_is_evaluated_at_its_average(tiny):
    torch.manual_seed(0)
    model = nn.Linear(50, 40)  # so many weights that some wouldn't come back by interpolation
    opt = catalog.build(model, fitted(tiny, optimizer="schedulefree", learning_rate=0.1))
    for _ in range(3):
        model(torch.randn(4, 50)).square().sum().backward()
        opt.step()
    before = model.weight.detach().clone()
    with evaluated(opt):
        assert not torch.equal(model.weight, before)
    assert torch.equal(model.weight, before)
    assert all(group["train_mode"] for group in opt.param_groups)


def decayed_alone(model, config):
    """The weights after a step whose gradient is 0, over those before."""
    opt = catalog.build(model, config)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(2):  # SOAP's first step is for its bases alone
        opt.step()
    return [(p / x).mean().item() for p, x in zip(model.parameters(), before, strict=True)]


@pytest.mark.parametrize("name", PEERS)
def test_decay_is_decoupled_and_of_matrices_alone(tiny, name):
    torch.manual_seed(0)
    model = MLP((8, 8, 1), (16, 16), 10)
    for p in model.parameters():
        torch.nn.init.ones_(p)
    config = fitted(tiny, optimizer=name, learning_rate=0.1, weight_decay=0.5)
    steps = 1 if name == "soap" else 2
    expected = [0.95**steps if p.ndim > 1 else 1.0 for p in model.parameters()]
    assert decayed_alone(model, config) == pytest.approx(expected)


def test_normuon_moves_hidden_matrices_by_a_fifth_of_their_rate(tiny):
    torch.manual_seed(0)
    model = MLP((8, 8, 1), (16, 12), 10)
    before = model.hidden[1].weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    catalog.build(model, fitted(tiny, optimizer="pytorch_optimizer_normuon", matrix_lr=0.1, weight_decay=0.0)).step()
    moved = model.hidden[1].weight - before
    assert moved.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-3)
    assert moved.square().mean(1).sqrt().tolist() == pytest.approx([0.02] * 12, rel=1e-3)  # each row alike


def test_the_librarys_normuon_is_the_packages():
    """Up to its rounding to bf16."""
    ours, theirs = ([nn.Parameter(torch.zeros(12, 16))] for _ in range(2))
    opt = NorMuon(ours, lr=1.0)
    peer = pytorch_optimizer.NorMuon([{"params": theirs, "use_muon": True}], lr=1.0)
    for seed in range(6):
        ours[0].grad = torch.randn(12, 16, generator=torch.Generator().manual_seed(seed))
        theirs[0].grad = ours[0].grad.clone()
        before = [x[0].detach().clone() for x in (ours, theirs)]
        opt.step()
        peer.step()
        one, other = (x[0] - start for x, start in zip((ours, theirs), before, strict=True))
        other = other * (0.2 * 16**0.5)  # the package leaves the size to its learning rate
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.03 * one.abs().max().item())


def test_ademamix_ramps_over_the_schedule(tiny):
    for keys, ramp in (({}, 8), ({"lr_decay_iters": 5}, 5)):
        config = fitted(tiny, optimizer="ademamix", max_iters=8, warmup_iters=2, **keys)
        (group, *_) = catalog.build(nn.Linear(2, 2), config).param_groups
        assert (group["t_alpha_beta3"], group["betas"]) == (ramp, (0.9, 0.999, 0.9999))


@pytest.mark.parametrize(("name", "package"), [("prodigy", "prodigyopt"), ("soap", "pytorch_optimizer")])
def test_a_missing_package_is_named(tiny, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"package {package}: .*mada-optim\[lab\]"):
        catalog.build(nn.Linear(2, 2), fitted(tiny, optimizer=name))
