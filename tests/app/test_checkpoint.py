"""Checkpoints: whole or absent, plain, and refused when damaged. `tests/reliability` breaks them in earnest."""

import pytest
import safetensors.torch
import torch

from mada_lab.checkpoints import checkpoint, redistribution
from mada_lab.checkpoints import tree as packing
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.checkpoints.folder import available, leftovers, path_of, strays
from mada_lab.errors import CheckpointError
from tests.reliability.attacks import reseal

TREE = {
    "optimizer": {"state": {0: {"m": torch.randn(2, 3), "step": torch.tensor(3.0, dtype=torch.float64)}, 7: {}}},
    "groups": [{"betas": (0.9, 0.95), "lr": 1e-3, "params": [0, 7], "names": None, "flag": True}],
    "losses": [0.1 + 0.2, float("inf"), -float("inf"), float("nan")],
    "bytes": torch.arange(9, dtype=torch.uint8)[1:8],
    "bools": torch.tensor([True, False]),
    "shared": (shared := torch.arange(4)),
    "again": shared,
    "bf16": torch.ones(2, dtype=torch.bfloat16),
    "transposed": torch.randn(3, 2).T,
    "empty": torch.zeros(0, 3),
    "every_other": torch.arange(6.0)[::2],
    "one_of_a_row": torch.arange(6.0).view(1, 6)[:, 2],
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)


def test_round_trip_keeps_types_keys_and_bits(tmp_path):
    folder = checkpoint.save(tmp_path, Checkpoint(12, TREE), keep=2)
    loaded = checkpoint.load(folder)
    assert loaded.step == 12
    assert same(TREE, loaded.tree)


def test_the_file_of_tensors_is_the_one_that_safetensors_writes():
    tensors = {"b": torch.randn(3, 2), "a": torch.randn(5, dtype=torch.float64), "c": torch.zeros(0, 2).bfloat16()}
    tensors |= {"e": torch.tensor([True, False, True]), "d": torch.tensor(7.0)}
    ours = b"".join(packing.safetensors_file(tensors))
    assert ours == safetensors.torch.save(tensors, metadata={"format": "pt"})


def test_a_copy_stays_what_it_was(tmp_path):
    x = torch.ones(3)
    taken = checkpoint.snapshot(Checkpoint(1, {"x": x}), copy=True)
    x += 1
    assert torch.equal(taken.tensors["/x"], torch.ones(3))


def test_a_digest_changes_with_each_bit_name_and_shape():
    trees = [{"x": torch.zeros(4)}, {"y": torch.zeros(4)}, {"x": torch.zeros(2, 2)}, {"x": torch.zeros(4).int()}]
    trees.append({"x": torch.tensor([0.0, 0.0, 0.0, 1e-45])})
    assert len({redistribution.digest(tree) for tree in trees}) == len(trees)
    assert redistribution.digest({"x": torch.zeros(4)}) == redistribution.digest({"x": torch.zeros(4)})


def test_only_the_newest_are_kept_and_strays_are_passed_over(tmp_path, caplog):
    for name in ("step_00000900-backup", "step_9", "step_00000098.part", "step_00000097.damaged", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_00000099").write_text("a file")
    (tmp_path / "checkpoints" / "step_00000096").symlink_to("step_00000096")
    (tmp_path / "checkpoints" / "step_00000095").symlink_to("step_00000010")
    for step in (2, 10, 9):
        checkpoint.save(tmp_path, Checkpoint(step, {}), keep=2)
    assert [x.name for x in available(tmp_path)] == ["step_00000009", "step_00000010"]
    assert leftovers(tmp_path) == []
    assert checkpoint.load_newest(tmp_path).step == 10
    assert caplog.text.count("is ignored") == len(strays(tmp_path)) == 6
    assert (tmp_path / "checkpoints" / "step_00000097.damaged").is_dir()


def test_a_step_is_never_written_twice(tmp_path):
    checkpoint.save(tmp_path, Checkpoint(1, {"x": torch.ones(2)}), keep=1)
    checkpoint.save(tmp_path, Checkpoint(1, {"x": torch.zeros(2)}), keep=1)
    assert checkpoint.load_newest(tmp_path).tree["x"].sum() == 2


def test_what_is_no_plain_value_is_refused_at_saving(tmp_path):
    for strange in ({1, 2}, torch.ones(2).to_sparse(), torch.ones(1, dtype=torch.complex64), {1.5: 1}):
        with pytest.raises(TypeError, match="at /x"):
            checkpoint.save(tmp_path, Checkpoint(1, {"x": strange}), keep=1)
    assert available(tmp_path) == []


def test_too_little_space_is_known_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 10})())
    with pytest.raises(CheckpointError, match=r"write 1,048,584 bytes, got too little space .* \(10 bytes"):
        checkpoint.save(tmp_path, Checkpoint(1, {"x": torch.ones(2)}), keep=1)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    """Whatever is wrong, the message names the file, and the older one is used; if that is damaged too, none is."""
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, Checkpoint(step, {"x": torch.ones(2)}), keep=3)
    (path_of(tmp_path, 3) / checkpoint.VALUES).unlink()
    (path_of(tmp_path, 2) / checkpoint.TENSORS).write_bytes(b"\x80\x04cposix\nsystem\n.")
    assert checkpoint.load_newest(tmp_path).step == 1
    assert "step_00000003/values.json: expected 56 bytes, got no such file" in caplog.text
    assert "step_00000002/tensors.safetensors: expected" in caplog.text
    (path_of(tmp_path, 1) / "more").write_text("")
    with pytest.raises(CheckpointError, match=r"values.json: .*; none of the 3 in .* is whole"):
        checkpoint.load_newest(tmp_path)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path):
    checkpoint.save(tmp_path, Checkpoint(1, {}), keep=1).rename(path_of(tmp_path, 5))
    with pytest.raises(CheckpointError, match="expected the manifest of step_00000005, got that of step 1"):
        checkpoint.load_newest(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        "{",
        "[]",
        "{}",
        '{"step": 1, "tree": {"dict": [["x", {"pickle": "gASV"}]]}}',
        '{"step": 1, "tree": {"dict": [["x", {"tensor": "/y"}]]}}',
        '{"step": 1, "tree": {"value": 1}}',
        '{"step": 2, "tree": {"dict": []}}',
        '{"step": 1, "tree": ' + "[" * 100_000,
        '{"step": 1, "tree": NaN}',
    ],
    ids=range(9),
)
def test_a_sealed_checkpoint_of_another_form_is_refused(tmp_path, values):
    folder = checkpoint.save(tmp_path, Checkpoint(1, {"x": torch.ones(2)}), keep=1)
    (folder / checkpoint.VALUES).write_text(values)
    reseal(folder)
    with pytest.raises(CheckpointError, match="expected one that this version wrote, got"):
        checkpoint.load(folder)
