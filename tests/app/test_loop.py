"""The loop on real text: resume, accumulation, evaluation, schedules.

Catches: state left out of a checkpoint, an evaluation that draws from the training's random numbers, a loss that is
scaled wrongly under accumulation, decay on vectors.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mada_lab.checkpoints.folder import available
from mada_lab.compute import generators
from mada_lab.config import parsing
from mada_lab.config.keys import TrainConfig, VisionConfig
from mada_lab.errors import CheckpointError, ConfigError, NumericsError
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.optimizers import catalog
from mada_lab.records.run_record import read_run
from mada_lab.system.signals import Signals
from mada_lab.training import lr_schedule
from mada_lab.training.gradients import accumulate
from mada_lab.training.lr_schedule import learning_rate
from mada_lab.training.reporting import due_row
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train
from mada_optim import HyperSGD, LearnedLR
from tests.app.conftest import Silent, fitted, update
from tests.problems import same_bits


def weights(session):
    return list(session.model.state_dict().values())


def optimizer_tensors(session):
    state = session.optimizer.state_dict()
    tensors = [x for s in state["state"].values() for x in s.values()]
    tensors += [x for g in state["param_groups"] for x in g.values() if isinstance(x, torch.Tensor)]
    return tensors


def losses(rows):
    return [(row["step"], row.get("train_loss"), row.get("val_loss"), row.get("coefficients")) for row in rows]


@pytest.mark.parametrize("optimizer", ["automuon", "mada", "adamw"])
@pytest.mark.parametrize("stop", [15, 20])
def test_a_resumed_run_is_the_run_that_never_stopped(tiny, corpus, tmp_path, optimizer, stop):
    """30 steps at once, against `stop` steps, a new process's worth of state from disk, and the rest; with dropout."""
    tiny = fitted(tiny, optimizer=optimizer, checkpoint_interval=5)
    whole, heard = Silent(), Silent()
    reference = train(replace(tiny, out_dir=str(tmp_path / "whole")), corpus, whole)
    half = replace(tiny, lr_decay_iters=30)
    train(replace(half, max_iters=stop), corpus, Silent())
    torch.manual_seed(999)  # whatever the new process drew before
    resumed = train(replace(half, init_from="resume"), corpus, heard)
    assert same_bits(weights(reference), weights(resumed))
    assert same_bits(optimizer_tensors(reference), optimizer_tensors(resumed))
    assert losses(heard.rows) == losses(whole.rows)[stop + 1 :]
    assert resumed.best_val_loss == reference.best_val_loss
    rows = read_run(tmp_path / "run").rows
    assert [row["step"] for row in rows] == list(range(31))


def test_a_killed_run_loses_the_steps_since_its_checkpoint_and_no_more(tiny, corpus, tmp_path):
    class Killed(Silent):
        def step(self, done):
            if done == 18:
                raise KeyboardInterrupt

    tiny = replace(tiny, checkpoint_interval=7)
    reference = train(replace(tiny, out_dir=str(tmp_path / "whole")), corpus, Silent())
    with pytest.raises(KeyboardInterrupt):
        train(tiny, corpus, Killed())
    resumed = train(replace(tiny, init_from="resume"), corpus, heard := Silent())
    assert heard.rows[0]["step"] == 15
    assert same_bits(weights(reference), weights(resumed))
    assert [row["step"] for row in read_run(tmp_path / "run").rows] == list(range(31))


def test_resuming_a_finished_run_changes_nothing(tiny, corpus):
    first = train(tiny, corpus, Silent())
    again = train(replace(tiny, init_from="resume"), corpus, heard := Silent())
    assert heard.rows == []
    assert same_bits(weights(first), weights(again))
    assert again.val_loss == first.val_loss


def test_coefficients_move_and_are_recorded(tiny, corpus, tmp_path):
    train(tiny, corpus, heard := Silent())
    run = read_run(tmp_path / "run")
    initial, final = run.summary["initial_coefficients"], run.summary["final_coefficients"]
    assert set(initial) == {"beta1", "beta2", "beta3", "rho", "c", "gamma"}
    assert final != initial
    assert heard.rows[5]["coefficients"] == initial
    assert any(run.rows[-1]["hypergradients"].values())
    assert run.manifest["config"]["n_embd"] == 16
    assert run.manifest["data"]["sha256"].keys() == {"train", "val"}
    assert run.summary["final_val_loss"] == run.rows[-1]["val_loss"]
    assert run.rows[-1]["tokens"] == 30 * 4 * 16


def test_accumulation_equals_the_large_batch(tiny, corpus, tmp_path):
    """3 batches of 4 against 1 batch of 12: the hypergradient is of the whole accumulated gradient."""
    tiny = replace(tiny, dropout=0.0, hyper_start=2, max_iters=20)
    small = replace(tiny, batch_size=4, gradient_accumulation_steps=3, out_dir=str(tmp_path / "small"))
    large = replace(tiny, batch_size=12, gradient_accumulation_steps=1, out_dir=str(tmp_path / "large"))
    a, b = (train(config, corpus, Silent()) for config in (small, large))
    for x, y in zip(weights(a), weights(b), strict=True):
        assert (x - y).norm() <= 1e-5 * y.norm()
    assert a.coefficients() == pytest.approx(b.coefficients(), abs=1e-5)
    assert a.coefficients()["beta1"] != 0.9


@pytest.mark.parametrize("change", [{"eval_interval": 3}, {"eval_iters": 5}, {"log_interval": 7}, {"eval_seed": 5}])
def test_looking_does_not_change_training(tiny, corpus, tmp_path, change):
    a = train(replace(tiny, out_dir=str(tmp_path / "a")), corpus, Silent())
    b = train(replace(tiny, out_dir=str(tmp_path / "b"), **change), corpus, Silent())
    assert same_bits(weights(a), weights(b))


def test_runs_of_two_seeds_are_evaluated_on_the_same_text(tiny, corpus, tmp_path):
    """With no training at all the loss is near the uniform one, and equal data give nearly equal losses."""
    heard = [Silent(), Silent()]
    for seed, listener in enumerate(heard):
        train(replace(tiny, seed=seed, out_dir=str(tmp_path / str(seed))), corpus, listener)
    first = [listener.rows[0]["val_loss"] for listener in heard]
    assert first == pytest.approx([math.log(corpus.vocabulary_size)] * 2, abs=0.1)
    assert first[0] != first[1]


def test_out_dir_of_another_run_is_refused_and_left_alone(tiny, corpus, tmp_path):
    train(tiny, corpus, Silent())
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="`--init_from=resume` goes on; another --out_dir starts anew"):
        train(tiny, corpus, Silent())
    with pytest.raises(ConfigError, match=r"; take another --out$"):
        train(tiny, corpus, Silent(), remedy="take another --out")
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_nothing_to_resume(tiny, corpus):
    with pytest.raises(CheckpointError, match="expected one to resume from, got none"):
        train(replace(tiny, init_from="resume"), corpus, Silent())


@pytest.mark.parametrize("change", [{"n_embd": 32}, {"optimizer": "adamw"}, {"seed": 1}, {"batch_size": 5}])
def test_a_checkpoint_of_another_run_is_refused(tiny, corpus, change):
    train(tiny, corpus, Silent())
    ((key, _),) = change.items()
    with pytest.raises(ConfigError, match=f"key {key}: expected"):
        train(fitted(tiny, init_from="resume", max_iters=40, **change), corpus, Silent())


def test_a_diverged_run_stops_with_its_last_checkpoint_intact(tiny, corpus, tmp_path, monkeypatch):
    sessions = []
    start = TrainState.start

    def remember(*arguments):
        sessions.append(start(*arguments))
        return sessions[-1]

    class Poison(Silent):
        def step(self, done):
            if done == 12:
                with torch.no_grad():
                    sessions[0].model.wpe.weight.fill_(float("nan"))

    monkeypatch.setattr(TrainState, "start", remember)
    with pytest.raises(NumericsError, match="at step 15: expected finite numbers, got others 3 times in a row"):
        train(replace(tiny, max_skipped_steps=3), corpus, Poison())
    assert [x.name for x in available(tmp_path / "run")] == ["step_00000010"]
    assert (
        read_run(tmp_path / "run").rows[-1] | {"step": 15, "train_loss": None, "skipped_steps": 3}
        == (read_run(tmp_path / "run").rows[-1])
    )


def test_learning_rate_schedule(tiny):
    config = replace(tiny, learning_rate=1.0, min_lr=0.1, warmup_iters=10, max_iters=110)
    assert learning_rate(config, 1.0, 1) == pytest.approx(0.1)
    assert learning_rate(config, 1.0, 10) == pytest.approx(1.0)
    assert learning_rate(config, 1.0, 60) == pytest.approx(0.55)
    assert learning_rate(config, 1.0, 110) == pytest.approx(0.1)
    assert learning_rate(replace(config, lr_decay_iters=60), 1.0, 80) == pytest.approx(0.1)
    assert learning_rate(replace(config, decay_lr=False), 1.0, 100) == pytest.approx(1.0)
    assert learning_rate(replace(config, warmup_iters=0), 1.0, 1) == pytest.approx(1.0, abs=1e-3)
    assert learning_rate(replace(config, min_lr=None), 3.0, 110) == pytest.approx(0.3)


@pytest.mark.parametrize(("kind", "steps", "warmup"), [
    (TrainConfig, 2000, 100), (TrainConfig, 500, 100), (TrainConfig, 50, 10), (TrainConfig, 3, 0),
    (VisionConfig, 200, 20), (VisionConfig, 50, 10),
])  # fmt: skip
def test_a_short_run_has_a_short_warm_up(kind, steps, warmup):
    config = parsing.load([f"--max_iters={steps}", "--learning_rate=1"], kind)
    assert lr_schedule.resolved(config).warmup_iters == warmup
    rates = [learning_rate(config, 1.0, step) for step in range(1, steps + 1)]
    assert rates.index(max(rates)) == max(warmup - 1, 0)


def test_the_record_has_the_number_of_warm_up_steps(tiny, corpus):
    train(replace(tiny, warmup_iters=None), corpus, Silent())
    assert read_run(Path(tiny.out_dir)).manifest["config"]["warmup_iters"] == 6
    replaced = replace(tiny, warmup_iters=6, init_from="resume", max_iters=32)
    assert train(replaced, corpus, Silent()).step == 32


def test_a_resumed_run_keeps_its_warm_up(tiny, corpus, tmp_path):
    """The default, a fifth of the run, is that of the run's first length; a given number is a change."""
    reference = train(replace(tiny, out_dir=str(tmp_path / "whole"), warmup_iters=3), corpus, Silent())
    half = replace(tiny, warmup_iters=None, lr_decay_iters=30)
    train(replace(half, max_iters=15), corpus, Silent())
    shutil.copytree(tiny.out_dir, tmp_path / "other")
    resumed = train(replace(half, init_from="resume"), corpus, Silent())
    assert resumed.config.warmup_iters == 3
    assert same_bits(weights(reference), weights(resumed))
    assert same_bits(optimizer_tensors(reference), optimizer_tensors(resumed))
    assert read_run(tmp_path / "run").resumes[-1]["changed"].keys() == {"max_iters"}
    other = replace(half, init_from="resume", out_dir=str(tmp_path / "other"), warmup_iters=6)
    train(other, corpus, Silent())
    assert read_run(tmp_path / "other").resumes[-1]["changed"]["warmup_iters"] == {"from": 3, "to": 6}


def test_a_schedule_that_counts_passes(tiny):
    """From 0, of a process; a step has that of its last one. The first step may have fewer."""
    config = replace(tiny, warmup_iters=10, max_iters=110, lr_counts="passes", gradient_accumulation_steps=4)
    assert learning_rate(config, 1.0, 1) == pytest.approx(0.075)
    assert learning_rate(config, 1.0, 3) == pytest.approx(0.275)
    assert learning_rate(replace(config, gradient_accumulation_steps=1), 1.0, 1) == 0.0
    short = replace(config, first_accumulation=2)
    assert learning_rate(short, 1.0, 2) == pytest.approx(0.125)
    assert learning_rate(short, 1.0, 2, processes=2) == pytest.approx(0.1)


def test_the_peak_stands_in_the_optimizer(tiny, corpus):
    """It is the learning_rate, or what the shapes say; rows have the real rates, and min_lr is a tenth of it."""
    for keys, peak in (({}, 1e-3), ({"learning_rate": 0.02}, 0.02), ({"optimizer": "automuon"}, None)):
        config = fitted(tiny, max_iters=6, **keys)
        start = TrainState.start(config, corpus)
        peak = peak or float(start.optimizer.param_groups[0]["lr"])
        assert (start.peak, start.manifest()["peak_learning_rate"]) == (peak, peak)
        out = f"{tiny.out_dir}{len(keys)}{peak}"
        rows = train(replace(config, out_dir=out), corpus, heard := Silent()) and heard.rows
        assert [row["lr"] for row in rows[:4]] == pytest.approx([0.0, peak / 3, 2 * peak / 3, peak])
        assert rows[-1]["lr"] == pytest.approx(peak / 10)
    assert peak > 1e-2


def test_min_lr_above_a_computed_peak_is_refused(tiny, corpus):
    with pytest.raises(
        ConfigError, match=r"key min_lr: expected at most the peak learning rate 0.0.*, got 0.9; lower it"
    ):
        train(fitted(tiny, optimizer="automuon", min_lr=0.9), corpus, Silent())


def test_a_resumed_run_keeps_its_peak_unless_it_is_told_another(tiny, corpus, tmp_path, monkeypatch):
    config = fitted(tiny, optimizer="automuon", max_iters=10, lr_decay_iters=20)
    first = train(config, corpus, Silent())
    monkeypatch.setattr(catalog, "peak", lambda optimizer: 0.123)  # as by another version of the library
    for keys, peak in (({}, first.peak), ({"learning_rate": 0.123}, 0.123)):
        shutil.copytree(tmp_path / "run", out := tmp_path / str(peak))
        resumed = train(replace(config, out_dir=str(out), init_from="resume", max_iters=12, **keys), corpus, Silent())
        assert resumed.peak == peak


OBSERVED = {"unclipped": {"grad_clip": 1e-3}, "first": {"grad_clip": 0.0, "gradient_accumulation_steps": 3}}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("when", OBSERVED)
def test_hypergradients_are_of_the_gradient_that_is_asked_for(tiny, corpus, when, dtype):
    """Of that before clipping, or of the first pass alone over all of them; the loss's scale is off it."""
    config = replace(tiny, hyper_observe=when, dtype=dtype, **OBSERVED[when])
    session, plain = (TrainState.start(replace(config, hyper_observe=x), corpus) for x in (when, "step"))
    signals = Signals()
    for x in (session, plain):
        update(x, accumulate(x, x.model, signals))
    if when == "first":
        plain.config = replace(plain.config, gradient_accumulation_steps=1)  # its one pass is the first
    else:
        plain.config = replace(plain.config, grad_clip=0.0)
    for x in (session, plain):
        update(x, accumulate(x, x.model, signals))
    found, expected = (x.optimizer.hypergradients() for x in (session, plain))
    share = 3 if when == "first" else 1
    assert any(expected.values())
    assert found == pytest.approx({q: x / share for q, x in expected.items()}, rel=1e-3, abs=1e-9)


CLAMPED = {
    "clamps": "beta2=0.6:0.7,rho=0.2:0.4",
    "clamp_interval": 4,
    "hyper_lr": "rho=0.5,beta2=0.1",
    "hyper_start": 1,
}


def test_coefficients_are_set_into_clamps_after_the_first_step_and_every_so_many(tiny, corpus, tmp_path):
    """They go on from there; the hyper-steps between keep to their own intervals."""
    tiny = replace(tiny, max_iters=14, grad_clip=0.0)
    train(replace(tiny, **CLAMPED), corpus, heard := Silent())
    first, *rows = [row["coefficients"] for row in heard.rows]
    assert (first["beta2"], first["rho"]) == (0.95, 1.0)
    assert (rows[0]["beta2"], rows[0]["rho"]) == pytest.approx((0.7, 0.4))
    inside = [0.6 <= q["beta2"] <= 0.7 + 1e-6 and 0.2 <= q["rho"] <= 0.4 + 1e-6 for q in rows]
    assert all(inside[::4])
    assert not all(inside)
    train(replace(tiny, out_dir=str(tmp_path / "wide"), **{**CLAMPED, "clamps": "beta2=0.5:0.9999"}), corpus, Silent())
    train(replace(tiny, out_dir=str(tmp_path / "off"), hyper_lr=CLAMPED["hyper_lr"], hyper_start=1), corpus, Silent())
    wide, off = (read_run(tmp_path / x).rows[-1]["digest"] for x in ("wide", "off"))
    assert wide == off


def test_a_run_with_clamps_goes_on_from_a_step_that_set_coefficients(tiny, corpus, tmp_path):
    tiny = replace(tiny, max_iters=14, checkpoint_interval=5, lr_decay_iters=30, **CLAMPED)
    whole = train(replace(tiny, out_dir=str(tmp_path / "whole")), corpus, Silent())
    train(replace(tiny, max_iters=5), corpus, Silent())
    resumed = train(replace(tiny, init_from="resume"), corpus, Silent())
    assert same_bits(weights(whole), weights(resumed))
    assert same_bits(optimizer_tensors(whole), optimizer_tensors(resumed))


def test_the_first_step_may_have_fewer_passes(tiny, corpus):
    """Their losses are divided as ever; the loss that is shown is their mean."""
    config = replace(tiny, gradient_accumulation_steps=4, first_accumulation=1, dropout=0.0)
    session, alone = TrainState.start(config, corpus), TrainState.start(replace(tiny, dropout=0.0), corpus)
    loss, whole = (accumulate(x, x.model, Signals()) for x in (session, alone))
    assert loss == whole
    for x, y in zip(session.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.allclose(4 * x.grad, y.grad)
    assert torch.equal(session.batches.state(), alone.batches.state())
    session.step = 1
    assert due_row(session)["tokens"] == 4 * 16
    accumulate(session, session.model, Signals())
    for _ in range(4):
        alone.batches.next()
    assert torch.equal(session.batches.state(), alone.batches.state())


@pytest.mark.parametrize("name", catalog.NAMES)
def test_every_optimizer_trains_and_decays_matrices_only(tiny, corpus, name):
    config = fitted(tiny, optimizer=name, max_iters=6, warmup_iters=2, eval_interval=6)
    session = train(config, corpus, Silent())
    decays = {p.dim() >= 2: g["weight_decay"] for g in session.optimizer.param_groups for p in g["params"]}
    assert decays == {True: 0.3 if name in ("automuon", "autoadam") else 0.1, False: 0.0}
    assert all(x.isfinite().all() for x in weights(session))


def test_coefficients_of_the_configuration_reach_the_optimizer(tiny):
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0, bias=False))
    config = replace(tiny, beta1=0.8, rho=0.6, eps=1e-6, hyper_lr=0.3, hyper_momentum=0.4, hyper_clip=7.0)
    opt = catalog.build(model, config)
    assert opt.coefficients() == {"beta1": 0.8, "beta2": 0.95, "beta3": 0.0, "rho": 0.6, "c": 1.0, "gamma": 1.0}
    assert opt.param_groups[0]["eps"] == 1e-6
    [learner] = opt.learners
    assert (learner.lr, learner.momentum, learner.clip, learner.start) == (0.3, 0.4, 7.0, 5)
    for key, option in (("hyper_fall", "fall"), ("hyper_rise", "rise"), ("hyper_lr", "rate"), ("horizon", "horizon")):
        [learner] = catalog.build(model, fitted(tiny, optimizer="automuon", **{key: 0.3})).learners
        assert getattr(learner, option) == 0.3
    baseline = catalog.build(model, fitted(tiny, optimizer="adamw", beta1=0.8, beta2=0.95))
    assert type(baseline) is torch.optim.AdamW
    assert baseline.param_groups[0]["betas"] == (0.8, 0.95)
    unused = ["hyper_clip", "hyper_lr", "hyper_momentum", "hyper_start", "rho"]
    assert catalog.without_effect(replace(config, optimizer="adamw")) == unused
    assert catalog.build(model, fitted(tiny, optimizer="adan")).coefficients()["beta3"] == 0.92


@pytest.mark.parametrize("optimizer", ["automuon", "autoadam"])
def test_a_learned_lr_starts_by_shapes_or_where_it_is_told(tiny, optimizer):
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0, bias=False))
    config = fitted(tiny, optimizer=optimizer)

    def start(**keys):
        built = catalog.build(model, replace(config, **keys))
        assert built.coefficients()["lr"] == pytest.approx(catalog.peak(built))
        return catalog.peak(built)

    assert start() == start(learning_rate="auto") == start(init_from="resume") > 1e-3
    assert start(learning_rate=1e-5) == start(learning_rate=1e-5, init_from="gpt2") == pytest.approx(1e-5)
    for rate in (None, "auto"):
        with pytest.raises(
            ConfigError, match=r"weights that are trained already \(init_from=gpt2\), got auto, which is"
        ):
            start(learning_rate=rate, init_from="gpt2")
    with pytest.raises(ConfigError, match=r"expected a number for adamw, got auto; leave it out for 0\.001"):
        catalog.build(model, fitted(tiny, optimizer="adamw", learning_rate="auto"))


def test_naming_what_is_learned_changes_nothing_else(tiny, corpus):
    """The default's own value, spelled out; then beside it another coefficient, by a learner of its own."""
    config = fitted(tiny, optimizer="automuon", max_iters=12, warmup_iters=2)
    default = train(config, corpus, Silent())
    named = train(replace(config, learn="lr", learning_rate="auto", out_dir=f"{tiny.out_dir}2"), corpus, Silent())
    assert same_bits(weights(default), weights(named))
    both = catalog.build(default.model, replace(config, learn="lr,omega", hyper_lr="lr=0.5,omega=0.2", hyper_stop=99))
    assert [(type(x), x.stop) for x in both.learners] == [(LearnedLR, 99), (HyperSGD, 99)]
    assert (both.learners[0].rate, dict(both.learners[1].lr)) == (0.5, {"omega": 0.2})
    paper = catalog.build(default.model, fitted(tiny, optimizer="mada", learn="lr", bounds="lr=0.5:2"))
    assert [(type(x), dict(x.bounds)) for x in paper.learners] == [(HyperSGD, {"lr": (0.5, 2.0)})]


def test_hyper_learning_rates_are_multiplied_as_they_are(tiny):
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0, bias=False))
    for factor in (0.0, 3.0):
        [learner] = catalog.build(model, fitted(tiny, optimizer="automuon", hyper_lr_factor=factor)).learners
        assert learner.rate == factor
        [learner] = catalog.build(model, replace(tiny, hyper_lr_factor=factor)).learners
        assert list(learner.lr.values()) == pytest.approx([factor * x for x in (5e-4, 5e-4, 0.1, 0.1, 0.1, 0.1)])


def test_a_name_of_before_is_answered_with_that_of_today():
    for old, new in (("mada_all", "mada"), ("mada_pointwise", "autoadam"), ("automoun", "automuon")):
        with pytest.raises(ConfigError, match=f"got {old}; did you mean '{new}"):
            catalog.require_known(old)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_trains(tiny, corpus, dtype):
    session = train(replace(tiny, dtype=dtype, max_iters=8), corpus, heard := Silent())
    assert heard.rows[-1]["train_loss"] < heard.rows[1]["train_loss"] + 0.1
    assert {p.dtype for p in session.model.parameters()} == {torch.float32}


def test_the_record_is_strict_json(tiny, corpus, tmp_path):
    train(replace(tiny, max_iters=5, warmup_iters=1), corpus, Silent())

    def refuse(constant):
        raise AssertionError(constant)

    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    json.loads((tmp_path / "run" / "summary.json").read_text(), parse_constant=refuse)


def test_a_pass_on_the_cpu_seeds_no_other_device(monkeypatch):
    """Where CUDA isn't used, torch keeps such a call with a traceback, and a long run would keep one for each pass."""

    def refused(seed):
        raise AssertionError(seed)

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refused)
    generators.seed_pass(1, 2, 3, torch.device("cpu"))
    drawn = torch.rand(3)
    generators.seed_pass(1, 2, 4, torch.device("cpu"))
    assert not torch.equal(torch.rand(3), drawn)
    generators.seed_pass(1, 2, 3, torch.device("cpu"))
    assert torch.equal(torch.rand(3), drawn)
