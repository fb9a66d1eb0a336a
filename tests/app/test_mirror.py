"""Mirrors of the record.

Catches: a number that a mirror lacks, or has at another step; a mirror that breaks a run; a package that is missed only
after training has begun.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.errors import ConfigError
from mada_lab.records import mirrors
from mada_lab.records.run_record import read_run
from mada_lab.system import optional
from mada_lab.training.trainer import train
from tests.app.conftest import Silent


def needs(package):
    return pytest.mark.skipif(not optional.installed(package), reason=f"needs the package {package}")


def mirrored_run(config, corpus, names):
    listener = Silent()
    with mirrors.mirrored(replace(config, mirror=names), listener) as listen:
        train(config, corpus, listen)
    return listener.rows


def test_numbers_of_a_row():
    row = {"step": 3, "train_loss": 2, "val_loss": None, "digest": "ab", "coefficients": {"block/0": {"beta1": 0.5}}}
    assert mirrors.numbers(row) == {"train_loss": 2.0, "coefficients/block/0.beta1": 0.5}


class Memory:
    """A mirror in memory, which fails at the write of `at`."""

    def __init__(self, at=None):
        self.at, self.written, self.closed = at, {}, False

    def write(self, step, numbers):
        if step == self.at:
            raise OSError("no space")
        self.written[step] = dict(numbers)

    def close(self):
        self.closed = True


def test_each_row_arrives_and_none_stays_behind(tiny, corpus, monkeypatch):
    memory = Memory()
    monkeypatch.setitem(mirrors.MIRRORS, "tensorboard", lambda config, first_step: memory)
    monkeypatch.setattr(mirrors, "installed", lambda package: True)
    rows = mirrored_run(replace(tiny, max_iters=4), corpus, "none, tensorboard,")
    recorded = read_run(tiny_folder(tiny)).series("train_loss")
    assert memory.closed
    assert list(memory.written) == [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [memory.written[step]["train_loss"] for step in recorded[0]] == recorded[1]
    assert memory.written[4]["coefficients/rho"] == rows[-1]["coefficients"]["rho"]


@pytest.mark.parametrize("where", ["opening", "writing"])
def test_a_mirror_that_fails_is_dropped_and_training_goes_on(where, tiny, corpus, monkeypatch, caplog):
    memory = Memory(at=2)
    monkeypatch.setitem(mirrors.MIRRORS, "wandb", lambda *_: memory if where == "writing" else 1 / 0)
    monkeypatch.setattr(mirrors, "installed", lambda package: True)
    rows = mirrored_run(replace(tiny, max_iters=4), corpus, "wandb")
    assert rows[-1]["step"] == 4
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["mirror wandb"]
    assert list(memory.written) == ([0, 1] if where == "writing" else [])


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch, tmp_path):
    (tmp_path / "a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not optional.installed("a_folder")
    assert optional.installed("numpy")
    monkeypatch.setattr(mirrors, "installed", lambda package: False)
    with pytest.raises(ConfigError, match="expected the package wandb for it, got none; `pip install wandb`"):
        mirrors.requested("wandb")
    with pytest.raises(ConfigError, match="expected none, tensorboard, wandb, or several with commas, got comet"):
        mirrors.requested("comet")
    assert mirrors.requested("none") == []


@needs("tensorboard")
def test_tensorboard_shows_what_the_record_says(tiny, corpus):
    """The files are read back by TensorBoard's own reader; after a resume, the run that went on is what is shown."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    mirrored_run(replace(tiny, max_iters=13), corpus, "tensorboard")
    shutil.rmtree(tiny_folder(tiny) / "checkpoints" / "step_00000013")  # as if stopped after step 10 was saved
    mirrored_run(replace(tiny, max_iters=20, init_from="resume", decay_lr=False), corpus, "tensorboard")
    shown = EventAccumulator(str(tiny_folder(tiny) / "tensorboard"))
    shown.Reload()
    run = read_run(tiny_folder(tiny))
    for tag, (steps, values) in {
        "val_loss": run.series("val_loss"),
        "train_loss": run.series("train_loss"),
        "coefficients/rho": run.coefficient("rho"),
    }.items():
        events = shown.Scalars(tag)
        assert [event.step for event in events] == steps, tag
        assert [event.value for event in events] == pytest.approx(values, rel=1e-6), tag


@needs("wandb")
def test_weights_and_biases_keep_an_offline_run(tiny, corpus, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    mirrored_run(replace(tiny, max_iters=4), corpus, "wandb")
    wandb.teardown()  # as at the end of the process: ends the process that writes
    [kept] = (tiny_folder(tiny) / "wandb").glob("offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    assert b"coefficients/rho" in content
    assert b"train_loss" in content


def tiny_folder(config):
    return Path(config.out_dir)
