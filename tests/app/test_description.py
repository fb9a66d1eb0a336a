"""What a run's optimizer is: described in its record, and told by reports in one sentence."""

from dataclasses import replace

import pytest
import torch

from mada_lab import optimizers
from mada_lab.baselines import BASELINES
from mada_lab.description import described
from mada_lab.errors import ConfigError
from mada_lab.loop import train
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.record import RunRecord, read_run
from mada_lab.report_runs import sentence
from mada_optim.rules import RULES
from tests.app.conftest import Silent, fitted
from tests.app.synthetic_runs import make_run

SIX, PRACTICAL = "mada_all", "mada"
"""The optimizers that learn the paper's six, and the learning rate."""


@pytest.fixture
def network():
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=17, block_size=8, n_layer=1, n_head=2, n_embd=8))


@pytest.fixture
def told(tmp_path):
    """The sentence about a run with this `method` in its manifest, or with these other parts."""

    def tell(method=None, **parts):
        manifest = parts if method is None else {"method": method, **parts}
        RunRecord.create(tmp_path / "run", {"optimizer": "x", **manifest})
        return sentence(read_run(tmp_path / "run"))

    return tell


def test_every_optimizer_says_what_it_is():
    """Rules that are not in the application's words are called by their names."""
    told = {**optimizers.DESCRIPTIONS, **{name: x.description for name, x in BASELINES.items()}}
    assert set(optimizers.NAMES) - set(RULES) <= told.keys()
    assert all(x and x == x.strip(" .;") for x in told.values())


def test_a_rule_without_words_of_its_own_is_called_by_its_name(network, tiny, monkeypatch):
    monkeypatch.delitem(optimizers.DESCRIPTIONS, "adan")
    config = fitted(tiny, optimizer="adan")
    assert described(config, optimizers.build(network, config))["description"] == "the rule adan"


def test_the_record_tells_what_is_learned_and_from_where(tiny, corpus, tmp_path):
    for name in (SIX, PRACTICAL, "adamw", "adam"):
        extra = {"beta2": 0.95} if name == "adamw" else {}
        short = replace(
            tiny, max_iters=2, warmup_iters=1, eval_interval=2, learning_rate=3e-3, out_dir=str(tmp_path / name)
        )
        train(fitted(short, optimizer=name, **extra), corpus, Silent())
    told = {name: sentence(read_run(tmp_path / name)) for name in (SIX, PRACTICAL, "adamw", "adam")}
    six = "six coefficients are learned (beta1, beta2, beta3, rho, c, gamma)"
    assert told[SIX] == f"MADA as in the paper; {six}; learning rate 0.003."
    start = read_run(tmp_path / PRACTICAL).manifest["initial_coefficients"]["lr"]
    assert f"; the learning rate is learned, from {start:.3g}, computed from the matrix shapes." in told[PRACTICAL]
    assert told["adamw"] == "PyTorch's AdamW; nothing is learned; betas (0.9, 0.95), learning rate 0.003."
    assert told["adam"] == "Adam; nothing is learned; betas (0.9, 0.999), learning rate 0.003."


def test_a_row_has_the_hypergradients_of_what_is_learned(tiny, corpus, tmp_path):
    train(replace(tiny, learn="beta1,rho", max_iters=8), corpus, heard := Silent())
    assert set(heard.rows[-1]["hypergradients"]) == {"beta1", "rho"}
    assert set(heard.rows[-1]["coefficients"]) > {"beta1", "rho"}
    assert read_run(tmp_path / "run").learned == ("beta1", "rho")


METHOD = {"description": "X", "learned": [], "lr": [0.003]}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (METHOD, "X; nothing is learned; learning rate 0.003."),
        (METHOD | {"betas": [0.9, 0.999]}, "X; nothing is learned; betas (0.9, 0.999), learning rate 0.003."),
        (METHOD | {"lr": [0.003, 0.02]}, "X; nothing is learned; learning rates 0.003 and 0.02."),
        (METHOD | {"lr": []}, "X; nothing is learned."),
        (METHOD | {"learned": ["rho"], "betas": [0.9, 0.95]}, "X; rho is learned; learning rate 0.003."),
        (METHOD | {"learned": ["lr"]}, "X; the learning rate is learned, from 0.003."),
        (
            METHOD | {"learned": ["lr"], "lr_computed": True},
            "X; the learning rate is learned, from 0.003, computed from the matrix shapes.",
        ),
        (
            METHOD | {"lr_computed": True},
            "X; nothing is learned; learning rate 0.003, computed from the matrix shapes.",
        ),
        (
            METHOD | {"learned": ["beta1", "c", "lr"]},
            "X; two coefficients are learned (beta1, c); the learning rate is learned, from 0.003.",
        ),
        (METHOD | {"learned": [f"q{i}" for i in range(12)]}, "12 coefficients are learned (q0, q1,"),
    ],
)
def test_sentences(told, method, expected):
    assert expected in told(method)


def test_an_old_record_tells_what_it_can(told, tmp_path):
    assert told() == "x; nothing is learned."
    runs = [
        read_run(make_run(tmp_path / name, learned=learned, config={"optimizer": name, "beta1": 0.9, "beta2": 0.95}))
        for name, learned in (("mada", True), ("adamw", False))
    ]
    six = "six coefficients are learned (beta1, beta2, beta3, rho, c, gamma)"
    assert sentence(runs[0]) == f"mada; {six}; learning rate 0.0006."
    assert sentence(runs[1]) == "adamw; nothing is learned; betas (0.9, 0.95), learning rate 0.0006."


def test_a_sentence_is_one_line(told):
    assert "\n" not in told(METHOD | {"description": "a\nb\x1b[31m"})


@pytest.mark.parametrize(
    "method",
    ["text", {}, METHOD | {"lr": 0.1}, METHOD | {"learned": "rho"}, METHOD | {"lr": [None]}, METHOD | {"betas": ["a"]}],
)
def test_a_malformed_description_is_refused(told, method):
    with pytest.raises(ConfigError, match=r"manifest.json, method: expected a description of an optimizer"):
        told(method)
