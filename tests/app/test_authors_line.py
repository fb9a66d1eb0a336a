"""The authors' example run: the line of their README, with a configuration like theirs.

Catches: another optimizer than the paper's; a rate, an interval, an eps or a decay that isn't theirs; another model or
schedule than configs/gpt2_small.toml has for the same run.
"""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mada_optim
from mada_lab.cli.train import require_possible
from mada_lab.config import parsing
from mada_lab.config.keys import TrainConfig
from mada_lab.config.python_files import assignments
from mada_lab.config.upstream import translate
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.optimizers import catalog

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "configs" / "upstream" / "train_gpt2_small.py"
LINE = f"{EXAMPLE} --dtype='float32' --beta1=0.9 --beta2=0.95 --beta3=0.0 --rho=0.6 --c=1.0 --gamma=1.0"
RATES = {"beta1": 5e-4, "beta2": 5e-4, "beta3": 0.1, "rho": 0.1, "c": 0.1, "gamma": 0.1}
INTERVALS = {
    "beta1": (0.01, 0.99),
    "beta2": (0.501, 0.99),
    "beta3": (0, 0.99),
    "rho": (0, 1),
    "c": (0, 1),
    "gamma": (0, 1),
}


@pytest.fixture
def line():
    """The authors' example run, as a shell passes it on."""
    return shlex.split(LINE)


def test_the_example_is_the_papers_run(line):
    keys = [*parsing.keys(TrainConfig), "bounds"]
    found = translate.translate(assignments(EXAMPLE.read_bytes(), EXAMPLE), EXAMPLE, line[1:], keys, True)
    values = {**found.supplied, **found.values}
    paper = parsing.request([str(ROOT / "configs" / "gpt2_small.toml")]).values
    same = {*paper} - {"out_dir", "optimizer", "bounds", "hyper_momentum", "hyper_clip"} - RATES.keys()
    same -= {"grad_clip"}  # ours by default too
    assert {key: values.get(key) for key in same} == {key: paper[key] for key in same}
    assert TrainConfig().grad_clip == paper["grad_clip"]


def test_the_authors_line_trains_by_their_optimizer(line):
    found = parsing.load(line)
    require_possible(found, parsing.request(line).keys)
    network = GPT(GPTConfig(vocab_size=11, n_layer=1, n_head=1, n_embd=8, block_size=4, bias=False))
    optimizer = catalog.build(network, found)
    assert type(optimizer) is mada_optim.MADA
    assert optimizer.rule.name == "mada"
    assert set(optimizer.learned) == RATES.keys()
    [learner] = optimizer.learners
    assert isinstance(learner, mada_optim.HyperSGD)
    assert (learner.momentum, learner.clip, learner.start, learner.stop, learner.scope) == (0, 10, 50, None, "global")
    assert [(group["weight_decay"], group["eps"], group["lr"]) for group in optimizer.param_groups] == [
        (0.1, 1e-6, 6e-4),
        (0.0, 1e-6, 6e-4),
    ]
    coefficients = {"beta1": 0.9, "beta2": 0.95, "beta3": 0.0, "rho": 0.6, "c": 1.0, "gamma": 1.0}
    assert optimizer.coefficients() == pytest.approx(coefficients, abs=1e-7)
    declared = {q.name: q for q in optimizer.rule.coefficients}
    intervals = {name: (q.interval.low, q.interval.high) for name, q in declared.items()}
    assert {**intervals, **learner.bounds} == INTERVALS
    assert {q: learner.lr.get(q, declared[q].hyper_lr) for q in RATES} == RATES


def test_the_authors_line_moves_coefficients_at_their_rates_within_their_intervals(line):
    weight = torch.nn.Linear(6, 5, bias=False).double()
    optimizer = catalog.build(weight, replace(parsing.load(line), c=0.5))  # 1 is a bound that it doesn't leave here
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    moved = set()
    for step in range(1, 121):
        size = 1e5 if step > 60 else 1e2  # hypergradients that are clipped, and some that are not
        noise = torch.randn(5, 6, generator=generator, dtype=torch.float64)
        weight.weight.grad = size * (gradient + noise)
        before = optimizer.coefficients()
        optimizer.step()
        after, h = optimizer.coefficients(), optimizer.hypergradients()
        if step <= 50:
            assert after == before
            continue
        for q, (low, high) in INTERVALS.items():
            expected = min(max(before[q] - RATES[q] * min(max(h[q], -10.0), 10.0), low), high)
            assert after[q] == pytest.approx(expected, abs=1e-6)
            moved |= {q} if after[q] != before[q] else set()
    assert moved == RATES.keys()
