"""Controls: hypergradients that are turned round or exchanged, and steps of another run's size.

Catches: a control that is the real thing, one that forgets how far it was, a pace that isn't the other run's, a tracing
that moves the run.
"""

from dataclasses import replace

import pytest
import torch

from mada_lab.errors import ConfigError
from mada_lab.optimizers import catalog, controls
from mada_lab.records.run_record import read_run
from mada_lab.training.trainer import train
from mada_optim import StepInfo
from tests.app.conftest import Silent, fitted
from tests.problems import same_bits


def moved(tiny, corpus, tmp_path, **keys):
    """The coefficients after a run, less those before it."""
    run = replace(tiny, out_dir=str(tmp_path / "_".join(map(str, keys.values()))), **keys)
    train(run, corpus, Silent())
    found = read_run(tmp_path / "_".join(map(str, keys.values())))
    before, after = found.initial_coefficients(), found.final_coefficients()
    return {name: after[name] - before[name] for name in before}


def test_negated_goes_the_other_way(tiny, corpus, tmp_path):
    """At its first step, for what isn't on a bound."""
    keys = {"hyper_start": 5, "max_iters": 6, "learn": "beta1", "beta1": 0.8}
    there = moved(tiny, corpus, tmp_path, hyper_optimizer="sgd", **keys)
    back = moved(tiny, corpus, tmp_path, hyper_optimizer="negated", **keys)
    assert there["beta1"] == pytest.approx(-back["beta1"], rel=1e-3)
    assert there["beta1"] != 0


def test_a_learned_lr_that_is_negated_goes_the_other_way(tiny, corpus, tmp_path):
    """Without what keeps it from rising or falling."""
    free = {"hyper_rise": 0.0, "hyper_fall": 0.0, "hyper_averaging": 0.0, "hyper_start": 5, "max_iters": 6}
    config = fitted(tiny, optimizer="automuon", decay_lr=False, warmup_iters=0, **free)
    rates = []
    for kind in ("sgd", "negated"):
        found = train(replace(config, out_dir=str(tmp_path / kind), hyper_optimizer=kind), corpus, Silent())
        rates.append(found.coefficients()["lr"] / found.peak)
    assert rates[0] * rates[1] == pytest.approx(1.0)
    assert rates[0] != 1.0


def test_shuffled_exchanges_the_hypergradients():
    """Each moves by its own rate along another's; who has whose changes from step to step."""
    learner = controls.Shuffled("beta1", "rho", "c", lr={"beta1": 1.0, "rho": 10.0, "c": 100.0}, start=4)
    q, h = torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0]] * 2)
    low, rates, yes = torch.full((3,), -1e6), (1.0, 1.0, 1.0), torch.ones(2, dtype=torch.bool)
    found = []
    for step in range(4, 12):
        steps = torch.tensor([step, step + 1])
        info = StepInfo(("beta1", "rho", "c"), low, -low, rates, steps, yes, yes, 0.0, lambda: q[:, 0])
        new, _ = learner.step(q, h, {"velocity": torch.zeros_like(q)}, info)
        found.append((-new / torch.tensor([1.0, 10.0, 100.0])).round().int().tolist())
    assert all(sorted(row) == [1, 2, 3] for rows in found for row in rows)
    assert len({tuple(rows[0]) for rows in found}) > 1
    assert [rows[1] for rows in found[:-1]] == [rows[0] for rows in found[1:]]


@pytest.mark.parametrize("kind", ["sgd", "negated", "shuffled"])
def test_a_factor_multiplies_every_rate(tiny, kind):
    config = replace(tiny, hyper_lr="rho=0.3", hyper_optimizer=kind, hyper_lr_factor=4.0)
    [learner] = catalog.build(torch.nn.Linear(2, 2), config).learners
    assert dict(learner.lr) == {"beta1": 2e-3, "beta2": 2e-3, "beta3": 0.4, "rho": 1.2, "c": 0.4, "gamma": 0.4}


def test_tracing_moves_nothing_and_a_follower_has_the_same_pace(tiny, corpus, tmp_path):
    config = replace(tiny, dropout=0.0, log_interval=1, max_iters=12, hyper_start=3, weight_decay=0.0)
    plain = train(config, corpus, Silent())
    traced = train(fitted(config, optimizer="mada_traced", out_dir=str(tmp_path / "traced")), corpus, Silent())
    assert same_bits([*plain.model.parameters()], [*traced.model.parameters()])
    keys = {"optimizer": "mada_paced", "pace_from": str(tmp_path / "traced"), "beta1": 0.5, "beta2": 0.5}
    train(fitted(config, out_dir=str(tmp_path / "paced"), **keys), corpus, Silent())
    steps, sizes = read_run(tmp_path / "traced").series("update_rms")
    assert read_run(tmp_path / "paced").series("update_rms") == (steps, pytest.approx(sizes))
    train(
        fitted(config, out_dir=str(tmp_path / "free"), **{k: x for k, x in keys.items() if k != "pace_from"}),
        corpus,
        Silent(),
    )
    assert read_run(tmp_path / "free").series("update_rms")[1] != pytest.approx(sizes, rel=0.01)
    with pytest.raises(ConfigError, match="expected a record with update_rms"):
        controls.Paced([torch.zeros(1, requires_grad=True)]).follow(tmp_path / "run")


@pytest.mark.parametrize(
    "keys",
    [{"optimizer": "mada_paced"}, *({"hyper_optimizer": kind, "hyper_start": 1} for kind in ("adam", "shuffled"))],
    ids=str,
)
def test_a_resumed_control_is_the_same_to_the_bit(tiny, corpus, tmp_path, keys):
    train(fitted(tiny, optimizer="mada_traced", out_dir=str(tmp_path / "traced"), max_iters=8), corpus, Silent())
    config = fitted(replace(tiny, pace_from=str(tmp_path / "traced")), max_iters=8, **keys)
    whole = train(config, corpus, Silent())
    part = replace(config, out_dir=str(tmp_path / "part"), max_iters=4, lr_decay_iters=8)
    train(part, corpus, Silent())
    rest = train(replace(part, max_iters=8, init_from="resume"), corpus, Silent())
    assert same_bits([*whole.model.parameters()], [*rest.model.parameters()])
