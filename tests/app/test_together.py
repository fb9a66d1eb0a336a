"""Runs side by side: each comes to what it would have come to by itself, and ends without the others.

Catches: a gradient that reaches another run's network, batches or schedules that are mixed up, a run that fails and
takes the others along, a stop that loses or repeats a step of one of them.
"""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mada_lab import cli
from mada_lab.config.keys import VisionConfig
from mada_lab.data.images import ImageData
from mada_lab.data.prepare import prepare
from mada_lab.errors import ConfigError, Interrupted, NumericsError
from mada_lab.experiments.sweeps.complete import complete_together
from mada_lab.experiments.sweeps.plan import Plan
from mada_lab.records.run_record import read_run
from mada_lab.system import run_lock
from mada_lab.training.stacked import Member, train_together
from mada_lab.training.trainer import train
from tests.app.conftest import Silent, fitted
from tests.app.test_sweep import Quiet, worker

OPTIMIZERS = ("automuon", "mada", "adamw", "schedulefree", "torch_muon")


@pytest.fixture
def configs(tiny):
    """Runs that differ in their seed, optimizer and learning rate, the last in its length too."""
    keys = {"dropout": 0.0, "n_layer": 2, "checkpoint_interval": 5}
    found = [
        fitted(tiny, optimizer=name, seed=i, learning_rate=10.0 ** -(2 + i % 2), out_dir=f"{tiny.out_dir}{i}", **keys)
        for i, name in enumerate(OPTIMIZERS)
    ]
    return [*found[:-1], replace(found[-1], max_iters=23)]


def members(configs, data):
    return [Member(config, data, Silent()) for config in configs]


def elsewhere(config, name):
    return replace(config, out_dir=f"{config.out_dir}_{name}")


def assert_alike(one, other):
    assert one.keys() == other.keys()
    for key, x in one.items():
        if isinstance(x, dict):
            assert_alike(x, other[key])
        elif isinstance(x, float):
            assert x == pytest.approx(other[key], rel=2e-3, abs=2e-4), key


def test_a_run_among_others_is_the_run_by_itself(configs, corpus):
    """Losses, coefficients and hypergradients of every step, but for rounding; the length of each is its own."""
    group = members(configs, corpus)
    train_together(group)
    assert [member.error for member in group] == [None] * len(configs)
    for member, config in zip(group, configs, strict=True):
        alone = Silent()
        train(elsewhere(config, "alone"), corpus, alone)
        rows = member.listen.rows
        assert [row["step"] for row in rows] == list(range(config.max_iters + 1))
        for row, same in zip(rows, alone.rows, strict=True):
            quick = ("seconds", "speed", "digest")
            assert_alike(*({k: x for k, x in r.items() if k not in quick} for r in (row, same)))
        summary = read_run(Path(config.out_dir)).summary
        assert summary["final_val_loss"] == rows[-1]["val_loss"]
        assert summary["final_coefficients"] == pytest.approx(
            read_run(Path(f"{config.out_dir}_alone")).summary["final_coefficients"], rel=2e-3
        )


def test_images_too(tmp_path):
    prepare("digits", tmp_path)
    data = ImageData.open(tmp_path / "digits")
    base = VisionConfig(
        device="cpu",
        dataset="digits",
        model="cnn",
        width=4,
        batch_size=16,
        max_iters=12,
        eval_interval=6,
        log_interval=1,
    )
    configs = [replace(base, seed=i, out_dir=str(tmp_path / f"run{i}"), optimizer="automuon") for i in range(3)]
    group = members(configs, data)
    train_together(group)
    for member, config in zip(group, configs, strict=True):
        alone = Silent()
        train(elsewhere(config, "alone"), data, alone)
        assert [row["train_loss"] for row in member.listen.rows[1:]] == pytest.approx(
            [row["train_loss"] for row in alone.rows[1:]], rel=1e-3
        )
        assert member.listen.rows[-1]["val_accuracy"] == pytest.approx(alone.rows[-1]["val_accuracy"], abs=0.02)


def test_accumulation(configs, corpus):
    config = replace(configs[2], gradient_accumulation_steps=3)
    group = members([config, replace(config, seed=9, out_dir=f"{config.out_dir}9")], corpus)
    train_together(group)
    train(elsewhere(config, "alone"), corpus, alone := Silent())
    assert group[0].listen.rows[-1]["train_loss"] == pytest.approx(alone.rows[-1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize("when", ["first", "unclipped"])
def test_observed_hypergradients(configs, corpus, when):
    config = replace(configs[1], gradient_accumulation_steps=3, hyper_observe=when, grad_clip=0.05, max_iters=8)
    group = members([config, replace(config, seed=9, out_dir=f"{config.out_dir}9")], corpus)
    train_together(group)
    train(elsewhere(config, "alone"), corpus, alone := Silent())
    for row, same in zip(group[0].listen.rows[1:], alone.rows[1:], strict=True):
        assert row["hypergradients"] == pytest.approx(same["hypergradients"], rel=2e-3, abs=1e-6)
    step = replace(config, hyper_observe="step", out_dir=f"{config.out_dir}_step")
    train(step, corpus, other := Silent())
    assert other.rows[-1]["hypergradients"] != pytest.approx(alone.rows[-1]["hypergradients"], rel=0.1)


def test_clamps_and_clipping_of_each_process(configs, corpus):
    """There is one process, whose gradient is the whole one."""
    keys = {"clamps": "beta2=0.6:0.7", "clamp_interval": 3, "grad_clip_of": "each", "grad_clip": 0.05, "max_iters": 8}
    config = replace(configs[1], **keys)
    group = members([config, replace(config, seed=9, out_dir=f"{config.out_dir}9")], corpus)
    train_together(group)
    train(elsewhere(config, "alone"), corpus, alone := Silent())
    for row, same in zip(group[0].listen.rows, alone.rows, strict=True):
        assert row["coefficients"] == pytest.approx(same["coefficients"], rel=2e-3)
    assert group[0].listen.rows[1]["coefficients"]["beta2"] == pytest.approx(0.7)


def test_a_first_step_of_fewer_passes_is_left_to_a_run_by_itself(configs, corpus):
    config = replace(configs[1], gradient_accumulation_steps=3, first_accumulation=1)
    [member] = group = members([config], corpus)
    train_together(group)
    assert "key first_accumulation: expected as many forward passes in the first step" in str(member.error)


def test_one_that_fails_leaves_the_others_alone(configs, corpus, tmp_path):
    good = configs[2]
    lost = replace(good, learning_rate=1e30, max_skipped_steps=3, out_dir=str(tmp_path / "lost"))
    wrong = replace(good, optimizer="nonsense", out_dir=str(tmp_path / "wrong"))
    drops = replace(good, dropout=0.1, out_dir=str(tmp_path / "drops"))
    group = members([lost, wrong, drops, good], corpus)
    train_together(group)
    assert isinstance(group[0].error, NumericsError)
    assert isinstance(group[1].error, ConfigError)
    assert "expected networks without dropout and running statistics" in str(group[2].error)
    assert not (tmp_path / "drops").exists()
    assert group[3].error is None
    train(elsewhere(good, "alone"), corpus, alone := Silent())
    assert group[3].listen.rows[-1]["val_loss"] == pytest.approx(alone.rows[-1]["val_loss"], rel=1e-4)


def test_one_that_is_broken_off_leaves_the_others_alone(configs, corpus):
    """As by a worker that has lost its claim; the folder of what has ended is free at once."""
    held = []

    class Lost(Silent):
        def step(self, done):
            if done == 7:
                raise RuntimeError("lost")

    class Looking(Silent):
        def step(self, done):
            held.append(run_lock.is_held(Path(configs[0].out_dir)))

    group = members(configs[:2], corpus)
    group[0].listen, group[1].listen = Lost(), Looking()
    train_together(group)
    assert str(group[0].error) == "lost"
    assert group[1].error is None
    assert held == [True] * 6 + [False] * 24
    assert read_run(Path(configs[1].out_dir)).summary["steps"] == 30


def test_stopped_and_taken_up_again(configs, corpus):
    """With the step in hand done, all are saved there; together again they end, to the bit, as if nothing had been."""
    whole = members([elsewhere(config, "whole") for config in configs], corpus)
    train_together(whole)

    class Stopping(Silent):
        def step(self, done):
            if done == 12:
                os.kill(os.getpid(), signal.SIGTERM)

    group = members(configs, corpus)
    group[1].listen = Stopping()
    with pytest.raises(Interrupted, match="at step 12"):
        train_together(group)
    runs = complete_together(configs, corpus, [Silent() for _ in configs])
    for run, config in zip(runs, configs, strict=True):
        assert [row["step"] for row in run.rows] == list(range(config.max_iters + 1))
        assert [resume["step"] for resume in run.resumes] == [12]
        assert run.rows[-1]["digest"] == read_run(Path(f"{config.out_dir}_whole")).rows[-1]["digest"]


def test_what_is_done_is_not_done_again(configs, corpus):
    """A run that has ended, one that has begun, a fresh one, and one of other keys in its folder."""
    done, begun, fresh, other = configs[0], configs[1], configs[2], configs[3]
    train(done, corpus, Silent())
    train(replace(begun, max_iters=10, lr_decay_iters=30), corpus, Silent())
    (begun_folder := read_run(Path(begun.out_dir)).folder / "summary.json").unlink()
    train(other, corpus, Silent())
    configs = [done, replace(begun, max_iters=10, lr_decay_iters=30), fresh, replace(other, seed=77)]
    heard = [Silent() for _ in configs]
    runs = complete_together(configs, corpus, heard)
    assert begun_folder.exists()
    assert [len(x.rows) for x in heard] == [0, 0, 31, 0]
    assert [getattr(run, "folder", None) is not None for run in runs] == [True, True, True, False]
    assert isinstance(runs[3], ConfigError)


def test_a_worker_trains_several_points_at_a_time(tiny, tmp_path):
    """Seven points, three at a time; one of them can't be trained, and is a result as well."""
    plan = Plan(replace(tiny, dropout=0.0, max_iters=5), grid={"seed": [1, 2, 3], "optimizer": ["adamw", "nonsense"]})
    one = worker(plan, tmp_path, listen=Quiet())
    one.together = 4
    results = one.work()
    assert [result.error is None for result in results] == [True, False] * 3
    assert all("ConfigError: optimizer, in key optimizer" in result.error for result in results[1::2])
    assert worker(plan, tmp_path).work() == results


def test_the_bench_side_by_side(tmp_path, capsys):
    """Its table is, but for rounding, the one of runs one by one."""
    words = ["bench", "--quick", "--sections=defaults,tuned", "--tasks=digits_mlp", "--families=adamw,automuon"]
    words += [f"--data-dir={tmp_path / 'data'}"]
    found = []
    for name, extra in (("one", []), ("many", ["--together=8"])):
        cli.run([*words, f"--out={tmp_path / name}", *extra])
        assert "failed" not in capsys.readouterr().out
        found.append(
            {
                x.parent.name: read_run(x.parent).summary["final_val_loss"]
                for x in (tmp_path / name).rglob("summary.json")
            }
        )
    assert found[0].keys() == found[1].keys()
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_there_is_no_device_of_that_name(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is")
    with pytest.raises(ConfigError, match="device, in key device: expected one that is here, got cuda"):
        cli.run(
            ["bench", "--quick", "--tasks=digits_mlp", "--device=cuda", f"--out={tmp_path}", f"--data-dir={tmp_path}"]
        )
