"""What a run's optimizer is: described in its record, and told by reports in one sentence."""

from dataclasses import replace

import pytest

from mada_lab.errors import ConfigError
from mada_lab.optimizers import catalog
from mada_lab.optimizers.baselines import BASELINES
from mada_lab.records.run_record import RunRecord, read_run
from mada_lab.reports.runs import sentence
from mada_lab.training.trainer import train
from tests.app.conftest import Silent, fitted
from tests.app.synthetic_runs import make_run


@pytest.fixture
def told(tmp_path):
    """The sentence about a run with this `method` in its manifest, or with these other parts."""

    def tell(method=None, **parts):
        manifest = parts if method is None else {"method": method, **parts}
        RunRecord.create(tmp_path / "run", {"optimizer": "x", **manifest})
        return sentence(read_run(tmp_path / "run"))

    return tell


def test_descriptions_are_parts_of_a_sentence():
    words = [x.description for x in (*catalog.OURS.values(), *BASELINES.values())]
    assert all(word and word == word.strip(" .;") for word in words)


def test_the_record_tells_what_is_learned_and_from_where(tiny, corpus, tmp_path):
    short, told = replace(tiny, max_iters=2, warmup_iters=1, eval_interval=2, learning_rate=3e-3), {}
    own = {"automuon": {"learning_rate": "auto"}, "adamw": {"beta2": 0.95}}
    for name in ("mada", "automuon", "adamw", "adam"):
        config = fitted(short, optimizer=name, out_dir=str(tmp_path / name), **own.get(name, {}))
        train(config, corpus, Silent())
        told[name] = sentence(read_run(tmp_path / name))
    six = "six coefficients are learned (beta1, beta2, beta3, rho, c, gamma)"
    assert told["mada"] == f"MADA as in the paper; {six}; learning rate 0.003."
    start = read_run(tmp_path / "automuon").manifest["initial_coefficients"]["lr"]
    assert f"; the learning rate is learned, from {start:.3g}, computed from the matrix shapes." in told["automuon"]
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
