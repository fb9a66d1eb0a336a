"""Optimizers of others, in the loop: two learning rates, weights that are evaluated elsewhere, checkpoints.

Catches: a resumed run that isn't the one that was stopped, an evaluation that moves the training, Muon on an embedding,
on the classifier or at the wrong rate, a missing package without a word of what to install.
"""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from mada_lab.errors import ConfigError
from mada_lab.model.images import CNN, MLP
from mada_lab.optimizers import catalog
from mada_lab.optimizers.baselines import evaluated, hidden_matrices
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train
from tests.app.conftest import Silent, fitted
from tests.problems import same_bits

NEW = ("prodigy", "schedulefree", "torch_muon")


@pytest.mark.parametrize("name", NEW)
def test_a_resumed_run_is_the_same_to_the_bit(tiny, corpus, tmp_path, name):
    """An evaluation of the first part alone, at step 3, must leave no trace either."""
    rates = {"learning_rate": 1.0 if name == "prodigy" else 0.01, "warmup_iters": 2, "decay_lr": False}
    rates |= {"matrix_lr": 0.02} if name == "torch_muon" else {}
    config = fitted(tiny, optimizer=name, max_iters=6, eval_interval=6, **rates)
    whole = train(config, corpus, Silent())
    part = replace(config, out_dir=str(tmp_path / "part"), max_iters=3, eval_interval=1)
    train(part, corpus, Silent())
    rest = train(replace(part, max_iters=6, init_from="resume"), corpus, Silent())
    assert same_bits([*whole.model.parameters()], [*rest.model.parameters()])
    assert whole.val_loss == rest.val_loss


def test_muon_has_hidden_matrices_at_their_own_rate(tiny, corpus):
    session = TrainState.start(fitted(tiny, optimizer="torch_muon", learning_rate=0.01, matrix_lr=0.03), corpus)
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
        catalog.build(MLP((8, 8, 1), (), 10), fitted(tiny, optimizer="torch_muon"))


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


@pytest.mark.parametrize(("name", "package"), [("prodigy", "prodigyopt"), ("schedulefree", "schedulefree")])
def test_a_missing_package_is_named(tiny, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"package {package}: .*mada-optim\[lab\]"):
        catalog.build(nn.Linear(2, 2), fitted(tiny, optimizer=name))
