"""Checkpoints: whole or absent, plain, and refused when damaged."""

import json

import pytest
import torch

from mada_lab import checkpoint
from mada_lab.checkpoint import Checkpoint
from mada_lab.errors import CheckpointError

TREE = {
    "optimizer": {"state": {0: {"m": torch.randn(2, 3), "step": torch.tensor(3.0, dtype=torch.float64)}, 7: {}}},
    "groups": [{"betas": (0.9, 0.95), "lr": 1e-3, "params": [0, 7], "names": None, "flag": True}],
    "shared": (shared := torch.arange(4)),
    "again": shared,
    "bf16": torch.ones(2, dtype=torch.bfloat16),
    "transposed": torch.randn(3, 2).T,
    "empty": torch.zeros(0, 3),
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b and type(a) is type(b)


def test_round_trip_keeps_types_keys_and_bits(tmp_path):
    folder = checkpoint.save(tmp_path, Checkpoint(12, TREE), keep=2)
    loaded = checkpoint.load(folder)
    assert loaded.step == 12
    assert same(TREE, loaded.tree)


def test_only_the_newest_are_kept_and_strays_are_passed_over(tmp_path):
    for name in ("step_00000900-backup", "step_9", "step_00000099.part", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    for step in (2, 10, 9):
        checkpoint.save(tmp_path, Checkpoint(step, {}), keep=2)
    assert [x.name for x in checkpoint.available(tmp_path)] == ["step_00000009", "step_00000010"]
    assert checkpoint.load_newest(tmp_path).step == 10
    assert (tmp_path / "checkpoints" / "step_00000900-backup").is_dir()


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, Checkpoint(1, {"x": torch.ones(2)}), keep=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoint.save(tmp_path, Checkpoint(2, {"x": torch.ones(2)}), keep=1)
    assert checkpoint.load_newest(tmp_path).step == 1


def test_what_is_no_plain_value_is_refused_at_saving(tmp_path):
    with pytest.raises(TypeError, match="set at /x"):
        checkpoint.save(tmp_path, Checkpoint(1, {"x": {1, 2}}), keep=1)
    assert checkpoint.available(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / checkpoint.VALUES).unlink(),
        lambda folder: (folder / checkpoint.TENSORS).unlink(),
        lambda folder: (folder / checkpoint.VALUES).write_text("{"),
        lambda folder: (folder / checkpoint.VALUES).write_text("[]"),
        lambda folder: (folder / checkpoint.VALUES).write_text(json.dumps({"format_version": 99})),
        lambda folder: (folder / checkpoint.TENSORS).write_bytes((folder / checkpoint.TENSORS).read_bytes()[:-1]),
        lambda folder: (folder / checkpoint.TENSORS).write_bytes(b"\x80\x04cposix\nsystem\n."),
        lambda folder: (folder / checkpoint.VALUES).write_text(
            json.dumps({"format_version": 1, "step": 1, "tree": {"dict": [["x", {"pickle": "gASV"}]]}})
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, damage):
    folder = checkpoint.save(tmp_path, Checkpoint(1, {"x": torch.ones(2)}), keep=1)
    damage(folder)
    with pytest.raises(CheckpointError, match="expected one that this version wrote"):
        checkpoint.load_newest(tmp_path)
