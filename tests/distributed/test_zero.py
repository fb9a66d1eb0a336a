"""Wrappers that share parameters out, as ZeRO stage 1: each process steps a part, and all have the same coefficients.

Catches: processes that learn from their part alone, or start where their part says.
"""

import functools
import re
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mada_optim import MADA, AutoAdam, AutoMuon, HyperOptimizer, HyperSGD, LearnedLR
from tests.distributed import group
from tests.problems import fast, learning

with warnings.catch_warnings():  # this import of torch's calls `torch.jit.script`, which is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.distributed.optim import ZeroRedundancyOptimizer

WORLD, STEPS = 2, 6
SIZES = ((16, 8), (32, 16), (4, 32))


def net():
    torch.manual_seed(0)
    layers = [nn.Linear(columns, rows) for rows, columns in SIZES]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def groups_of(model):
    """The two first matrices, which are hidden, and the rest."""
    hidden = [model[0].weight, model[2].weight]
    rest = [p for p in model.parameters() if all(p is not x for x in hidden)]
    return [{"params": hidden, "matrix": True}, {"params": rest, "matrix": False}]


def train(model, opt):
    path = []
    for step in range(STEPS):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        model.zero_grad()
        (model(x) - x[:, :4].sin()).square().mean().backward()
        opt.step()
        path.append(getattr(opt, "optim", opt).coefficients())
    return path, [p.tolist() for p in model.parameters()]


#: By name: the class with what it is given, and keywords of the wrapper, which repeats them in each group.
CASES = {
    "nothing learned": (MADA, {"learn": (), "lr": 1e-2, "betas": (0.9, 0.95)}),
    "Muon, nothing learned": (functools.partial(HyperOptimizer, rule="mada_matrix"), {"lr": 1e-2}),
}
#: Those that learn need the processes to sum over.
LEARNING = {
    "AutoMuon": (functools.partial(AutoMuon, learn=LearnedLR(start=1)), {}),
    "AutoAdam": (functools.partial(AutoAdam, learn=LearnedLR(start=1)), {}),
    "at an lr": (functools.partial(AutoMuon, learn=LearnedLR(start=1)), {"lr": 1e-2}),
    "lr is large": (functools.partial(AutoMuon, learn=LearnedLR(fall=3.0, start=1)), {"lr": 0.5}),
    "all": (learning, {"lr": 1e-2}),
    "betas": (functools.partial(learning, learn=fast(lr=0.1)), {"lr": 1e-2, "betas": (0.9, 0.95)}),
}


def single(make, keywords):
    model = net()
    return train(model, make(groups_of(model), **keywords))


def shared_out(name):
    summed = name in LEARNING
    make, keywords = (LEARNING if summed else CASES)[name]
    model = net()
    if summed:
        make = functools.partial(make, reduce_group=dist.group.WORLD)
    opt = ZeroRedundancyOptimizer(groups_of(model), optimizer_class=make, **keywords)
    parts = sum(len(x["params"]) for x in opt.optim.param_groups)
    return parts, *train(model, opt)


def every_case():
    return {name: shared_out(name) for name in (*CASES, *LEARNING)}


@pytest.fixture(scope="module")
def answers():
    return group.run(WORLD, every_case)


@pytest.mark.parametrize("name", [*CASES, *LEARNING])
def test_a_run_is_that_of_one_process(name, answers):
    (parts, path, weights), (other_parts, other_path, other_weights) = (answer[name] for answer in answers)
    assert 0 < parts < parts + other_parts == 6
    assert path == other_path
    alone, expected = single(*{**CASES, **LEARNING}[name])
    for ours, theirs in zip(path, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for mine in (weights, other_weights):
        for x, y in zip(mine, expected, strict=True):
            torch.testing.assert_close(torch.tensor(x), torch.tensor(y), rtol=1e-4, atol=1e-6)


def alone():
    try:
        ZeroRedundancyOptimizer(net().parameters(), optimizer_class=MADA, lr=1e-3, learn=HyperSGD("all", start=1))
    except ValueError as error:
        return str(error)


def test_learning_from_a_part_alone_is_refused_where_it_can_be_seen():
    for message in group.run(WORLD, alone):
        assert re.search("2 processes: expected reduce_group, got None", message)


def guessing():
    model = net()
    try:
        AutoMuon(model.named_parameters(), reduce_group=dist.group.WORLD)
    except ValueError as error:
        return str(error)


def test_hidden_matrices_of_a_part_are_not_guessed():
    for message in group.run(WORLD, guessing):
        assert re.search("expected the key 'matrix'", message)
