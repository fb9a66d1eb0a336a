"""When a checkpoint can't be written: warned of, survived or not as the configuration says, and never forgotten.

Catches: an error in the background that nobody hears of, a snapshot that training changes, two writers at once.
"""

import os
import threading
import time
from dataclasses import replace

import pytest
import torch

from mada_lab.checkpoints import checkpoint
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.checkpoints.folder import available, leftovers, path_of
from mada_lab.checkpoints.saver import Saver
from mada_lab.errors import CheckpointError
from mada_lab.records.run_record import read_run
from mada_lab.system import files
from mada_lab.training.trainer import train
from tests.app.conftest import Silent
from tests.reliability import runs
from tests.reliability.faults import FaultyOs


def fill(monkeypatch):
    """From now on the disk has no space left."""
    monkeypatch.setattr(files, "os", full := FaultyOs(1, "FULL"))
    return full


@pytest.fixture(params=[False, True], ids=["in the loop", "in the background"])
def config(request, tiny):
    return replace(tiny, background_save=request.param)


class FullFrom(Silent):
    """Fills the disk at a step, and frees it at another, once the checkpoint of step `missed` has met it.

    A checkpoint in the background is given the time to be there, `saved`, before the disk is full.
    """

    def __init__(self, patch, full, free=10**9, missed=None, saved=None):
        super().__init__()
        self.patch, self.full, self.free, self.missed, self.saved = patch, full, free, missed, saved
        self.disk = None

    def step(self, done):
        if done == self.full:
            wait(lambda: self.saved is None or self.saved.exists())
            self.disk = fill(self.patch)
        if done == self.free:
            wait(lambda: not self.missed or self.has_missed())
            self.patch.undo()

    def has_missed(self):
        return any(name == "mkdir" and f"{self.missed}.part" in path for name, path in self.disk.changes)


def wait(until):
    deadline = time.monotonic() + 30
    while not until() and time.monotonic() < deadline:
        time.sleep(0.001)


def test_a_full_disk_is_told_and_survived(config, corpus, tmp_path, monkeypatch, caplog):
    train(replace(config, out_dir=str(tmp_path / "whole")), corpus, Silent())
    train(config, corpus, FullFrom(monkeypatch, 12, 25, missed=20, saved=path_of(tmp_path / "run", 10)))
    assert "expected to write" in caplog.text
    assert "got No space left on device" in caplog.text
    assert "bytes are free" in caplog.text
    assert "Training goes on; the checkpoints before this one are as they were" in caplog.text
    assert [x.name for x in available(tmp_path / "run")] == ["step_00000010", "step_00000030"]
    assert runs.finished(tmp_path / "run") == runs.finished(tmp_path / "whole")


def test_abort_ends_the_run(config, corpus, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"step_00000020: expected to write .* No space left"):
        train(replace(config, on_save_error="abort"), corpus, FullFrom(monkeypatch, 18))
    assert [x.name for x in available(tmp_path / "run")] == ["step_00000010"]
    assert leftovers(tmp_path / "run") == []


def test_the_end_of_a_run_that_is_not_saved_is_an_error(config, corpus, tmp_path, monkeypatch):
    """The disk is free again before the record ends: only the last checkpoint is missing."""

    class FullForTheLast(Silent):
        def row(self, row):
            if row["step"] == 30:
                fill(monkeypatch)

    monkeypatch.setattr(Saver, "settle", freed_after(Saver.settle, monkeypatch))
    with pytest.raises(CheckpointError, match="step_00000030: expected to write"):
        train(config, corpus, FullForTheLast())
    monkeypatch.undo()
    assert read_run(tmp_path / "run").summary["steps"] == 30
    train(replace(config, init_from="resume"), corpus, heard := Silent())
    assert heard.rows[0]["step"] == 21


def freed_after(original, monkeypatch):
    def settle(it):
        original(it)
        if it.failed is not None:
            monkeypatch.setattr(files, "os", os)

    return settle


def test_rows_wait_for_a_disk_that_is_full(tiny, corpus, tmp_path, monkeypatch, caplog):
    train(replace(tiny, out_dir=str(tmp_path / "whole")), corpus, Silent())
    train(tiny, corpus, FullFrom(monkeypatch, 3, 7))
    assert caplog.text.count("the row waits in memory") == 4
    assert runs.finished(tmp_path / "run") == runs.finished(tmp_path / "whole")


def test_a_disk_that_stays_full_ends_the_run_with_what_it_has(tiny, corpus, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"run record, in .*: expected to write it, got No space left"):
        train(tiny, corpus, FullFrom(monkeypatch, 13))
    assert read_run(tmp_path / "run").summary is None
    assert [x.name for x in available(tmp_path / "run")] == ["step_00000010"]


def test_in_the_background_a_copy_is_written_and_one_at_a_time(tiny, tmp_path, monkeypatch):
    gates, begun, running, most = [threading.Event(), threading.Event()], [0], [0], [0]
    write = checkpoint.write

    def slow(*arguments):
        gate = gates[begun[0]]
        begun[0], running[0] = begun[0] + 1, running[0] + 1
        most[0] = max(most[0], running[0])
        gate.wait(30)
        result = write(*arguments)
        running[0] -= 1
        return result

    monkeypatch.setattr(checkpoint, "write", slow)
    x = torch.ones(3)
    with Saver(replace(tiny, background_save=True)) as saver:
        saver.save(Checkpoint(1, {"x": x}))
        saver.poll()
        x += 1
        assert available(tmp_path / "run") == []
        threading.Timer(0.1, gates[0].set).start()
        saver.save(Checkpoint(2, {"x": x}))
        assert len(available(tmp_path / "run")) == 1
        x += 1
        gates[1].set()
    assert most == [1]
    saved = [checkpoint.load(folder).tree["x"].tolist() for folder in available(tmp_path / "run")]
    assert saved == [[1, 1, 1], [2, 2, 2]]
