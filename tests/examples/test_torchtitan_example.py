"""torchtitan's container of optimizers: its example, and what it asks of an optimizer, also where it isn't installed.

Catches: keys of torchtitan's groups that are refused, and a state that its flat state dict loses.
"""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

from mada_optim import AutoMuon, HyperSGD
from tests.examples.conftest import fell
from tests.problems import same_bits

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def test_the_container_trains_and_goes_on_bit_for_bit(example):
    pytest.importorskip("torchtitan", reason="torchtitan is not installed: pip install --no-deps torchtitan")
    result = example("torchtitan_container").main()
    assert fell(result["losses"])
    assert same_bits(list(result["model"].parameters()), list(result["resumed"].parameters()))
    assert result["opt"].coefficients() == result["opt_again"].coefficients()
    assert [group["hidden_matrices"] for group in result["opt"].param_groups] == [[True, True], [False], [False, False]]


def made():
    """A model, and AutoMuon of groups with the keys that the container of torchtitan 0.3 gives them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 8))
    named = dict(model.named_parameters())
    hidden, rest = ["1.weight"], [name for name in named if name != "1.weight"]
    groups = [
        {"params": [named[name] for name in names], "param_names": names, "fused": True, "foreach": False, "lr": 1e-2}
        for names in (hidden, rest)
    ]
    groups[0]["matrix"], groups[1]["matrix"] = True, False
    return model, AutoMuon(groups, learn=HyperSGD("lr", lr=0.1, start=1))


def train(model, opt, steps):
    for step in steps:
        ids = torch.randint(8, (16,), generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        nn.functional.cross_entropy(model(ids), ids).backward()
        opt.step()


def test_a_flat_state_dict_by_names_resumes_bit_for_bit():
    (model, opt), (resumed, again) = made(), made()
    train(model, opt, range(4))
    saved = copy.deepcopy(get_optimizer_state_dict(model, opt, options=FLAT))
    assert {"state.1.weight.b", "param_groups.1.weight.log_lr", "param_groups.3.bias.lr"} <= saved.keys()
    resumed.load_state_dict(model.state_dict())
    set_optimizer_state_dict(resumed, again, saved, options=FLAT)
    for run in ((model, opt), (resumed, again)):
        train(*run, range(4, 8))
    assert same_bits(list(model.parameters()), list(resumed.parameters()))
    assert opt.coefficients() == again.coefficients()
