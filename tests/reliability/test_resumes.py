"""What a resumed run is: the run that never stopped, bit for bit, and honest about what was changed.

Catches: state that is left out of a checkpoint, a damaged checkpoint that is used or stays in the way, a record that
forgets, a folder that belongs to two runs.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mada_lab.checkpoints import checkpoint
from mada_lab.checkpoints.folder import available, path_of
from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.records.run_record import RunRecord, read_run
from mada_lab.training import resume
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train
from tests.app.conftest import Silent
from tests.reliability import crash_points, resumes, runs


@pytest.mark.parametrize(("dtype", "passes"), [("float32", 3), ("bfloat16", 1)])
def test_half_of_the_matrix(tmp_path, data_dir, dtype, passes):
    config = replace(resumes.CONFIG, data_dir=str(data_dir))
    tally = resumes.matrix(tmp_path, config, (dtype,), (passes,), ({"background_save": passes == 3},))
    assert tally.failures == []
    assert tally.cases == len(resumes.POINTS)


def test_a_row_is_written_once_however_often_its_step_is_resumed(tmp_path, data_dir):
    """Stopped after step 17, whose row was not due yet; resumed, and killed before the next checkpoint; resumed."""
    config = replace(resumes.CONFIG, data_dir=str(data_dir), out_dir=str(tmp_path / "run"))
    reference, _ = runs.undisturbed(tmp_path / "reference", config)
    assert runs.in_child(resumes.train_until, config, 17, ()) == 143
    assert runs.in_child(crash_points.killed_at, runs.again(config), 19) == -9
    assert runs.last_steps(config.out_dir) == (18, 17)
    assert runs.in_child(runs.train, runs.again(config)) == 0
    assert runs.finished(config.out_dir) == reference


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_costs_one_interval(tiny, corpus, tmp_path, caplog):
    """The one before it is used, the damaged one is set aside, and the result is that of the undisturbed run."""
    train(replace(tiny, out_dir=str(tmp_path / "whole")), corpus, Silent())
    train(replace(tiny, max_iters=20, lr_decay_iters=30), corpus, Silent())
    flip(path_of(tmp_path / "run", 20) / "tensors.safetensors")
    train(replace(tiny, init_from="resume", lr_decay_iters=30), corpus, heard := Silent())
    assert "step_00000020/tensors.safetensors: expected sha256" in caplog.text
    assert heard.rows[0]["step"] == 11
    assert sorted(x.name for x in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step_00000020",
        "step_00000020.damaged",
        "step_00000030",
    ]
    assert runs.digest(tmp_path / "run") == runs.digest(tmp_path / "whole")


def test_the_record_says_what_a_resume_changed(tiny, corpus, tmp_path):
    train(replace(tiny, max_iters=10), corpus, Silent())
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    train(replace(tiny, init_from="resume", max_iters=20, learning_rate=5e-4), corpus, Silent())
    train(replace(tiny, init_from="resume", max_iters=20, learning_rate=5e-4), corpus, Silent())
    changes = {"max_iters": {"from": 10, "to": 20}, "learning_rate": {"from": None, "to": 5e-4}}
    notes = read_run(tmp_path / "run").resumes
    assert [(note["step"], note["changed"], note["exact"]) for note in notes] == [(10, changes, True), (20, {}, True)]
    assert notes[0]["versions"]["torch"] == torch.__version__
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def test_a_key_that_the_checkpoint_overrides_is_refused(tiny, corpus):
    """It would have no effect, as the optimizer's state brings the old value along."""
    train(tiny, corpus, Silent())
    what = "key weight_decay: expected None, as in the run that is resumed, got 0.3; resume with --weight_decay=None"
    with pytest.raises(ConfigError, match=what):
        train(replace(tiny, init_from="resume", max_iters=40, weight_decay=0.3), corpus, Silent())


def test_a_run_that_never_reached_a_checkpoint_begins_again(tiny, corpus, tmp_path):
    train(replace(tiny, out_dir=str(tmp_path / "whole")), corpus, Silent())
    RunRecord.create(tmp_path / "run", TrainState.start(tiny, corpus).manifest()).log({"step": 3})
    train(replace(tiny, init_from="resume"), corpus, Silent())
    assert [row["step"] for row in read_run(tmp_path / "run").rows] == list(range(31))
    assert runs.digest(tmp_path / "run") == runs.digest(tmp_path / "whole")


def test_a_run_whose_checkpoints_were_taken_away_does_not_begin_again(tiny, corpus, tmp_path):
    train(tiny, corpus, Silent())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(CheckpointError, match="expected one to resume from, got none"):
        train(replace(tiny, init_from="resume"), corpus, Silent())
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_checkpoints_without_a_record_are_not_overwritten(tiny, corpus, tmp_path):
    train(tiny, corpus, Silent())
    for name in ("manifest.json", "metrics.jsonl", "summary.json"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(ConfigError, match="got one with checkpoints"):
        train(tiny, corpus, Silent())


def test_a_record_of_another_run_is_refused(tiny, corpus, tmp_path):
    """Its row of that step has the digest of another state."""
    for name, seed in (("run", 1), ("other", 2)):
        train(replace(tiny, seed=seed, out_dir=str(tmp_path / name)), corpus, Silent())
    shutil.copy(tmp_path / "other" / "metrics.jsonl", tmp_path / "run" / "metrics.jsonl")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"expected the state of digest .* that metrics.jsonl names"):
        train(replace(tiny, seed=1, init_from="resume"), corpus, Silent())
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_state_that_comes_back_with_other_bits_is_refused(tiny, corpus, monkeypatch):
    """As torch's own load_state_dict would do it, which rounds the slots of bf16 parameters."""
    train(tiny, corpus, Silent())
    restore = TrainState.restore

    def rounding(session, saved):
        restore(session, saved)
        session.model.wpe.weight.data = session.model.wpe.weight.data.bfloat16().float()

    monkeypatch.setattr(TrainState, "restore", rounding)
    with pytest.raises(CheckpointError, match="a state that comes back with other bits"):
        train(replace(tiny, init_from="resume", max_iters=40), corpus, Silent())


def test_nothing_of_a_misfit_reaches_the_session(tiny, corpus, tmp_path):
    train(tiny, corpus, Silent())
    tree = checkpoint.load_newest(tmp_path / "run").tree
    tree["state"]["model"]["wpe.weight"] = torch.zeros(2, 2)
    shutil.rmtree(path_of(tmp_path / "run", 30))
    checkpoint.save(tmp_path / "run", checkpoint.Checkpoint(30, tree), keep=2)
    session = TrainState.start(replace(tiny, init_from="resume"), corpus)
    before = session.digest()
    with pytest.raises(CheckpointError, match=r"model wpe.weight: expected \(16, 16\) torch.float32, got \(2, 2\)"):
        resume.open_record(session)
    assert session.digest() == before


def test_digests_come_as_often_as_asked(tiny, corpus, tmp_path):
    train(replace(tiny, log_interval=10, digest_interval=4), corpus, Silent())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "digest" in row] == [0, 4, 8, 12, 16, 20, 24, 28, 30]
    assert len({row["digest"] for row in rows if "digest" in row}) == 9
    assert [x.name for x in available(Path(tiny.out_dir))] == ["step_00000020", "step_00000030"]
