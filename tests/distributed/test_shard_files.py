"""Checkpoints that each process writes its own shards of.

Catches: a row that is in no file, or in two, or in another place; a checkpoint that some number of processes can't take
up; one that is complete though a process failed, or died, while it wrote; processes that part ways at such a failure; a
damaged or forged piece that is believed; a first process that gathers what it need not.
"""

import os
import random
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mada_lab.checkpoints import checkpoint, fingerprint, reading, redistribution, row_shards
from mada_lab.checkpoints.folder import available, leftovers
from mada_lab.compute.world import ALONE
from mada_lab.config import parsing
from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.records.run_record import read_run
from mada_lab.system import files
from mada_lab.training.verify import verify
from tests.distributed import group
from tests.reliability import ranks, resumes, rot, runs
from tests.reliability.attacks import reseal
from tests.reliability.faults import FaultyOs

CONFIG = replace(runs.TINY, gradient_accumulation_steps=4, max_iters=6, eval_interval=3, hyper_start=1)
CONFIG = replace(CONFIG, parallel="fsdp", checkpoint_shards="each", checkpoint_interval=3, keep_checkpoints=3)


@pytest.mark.parametrize(("length", "count"), [(0, 3), (1, 4), (7, 2), (9, 4), (12, 5), (5, 1)])
def test_pieces_cover_each_row_once(length, count):
    pieces = [range(*row_shards.rows(length, i, count)) for i in range(count)]
    assert [row for piece in pieces for row in piece] == list(range(length))
    for start in range(length + 1):
        for stop in range(start, length + 1):
            parts = row_shards.overlaps(length, count, start, stop)
            assert [pieces[i][j] for i, first, end in parts for j in range(first, end)] == list(range(start, stop))


@pytest.fixture
def config(data_dir, tmp_path):
    return replace(CONFIG, data_dir=str(data_dir), out_dir=str(tmp_path / "run"))


@pytest.fixture(scope="module")
def written(data_dir, tmp_path_factory):
    """A run of two processes, with a file of shards for each, and the same in one file."""
    folder = tmp_path_factory.mktemp("written")
    for shards in ("each", "one"):
        mine = replace(CONFIG, data_dir=str(data_dir), out_dir=str(folder / shards), checkpoint_shards=shards)
        assert ranks.in_group(2, runs.train, mine) == 0
    return folder


def copied(written, config):
    """The run of two processes, as the one of `config`."""
    files_of = [x for x in (written / "each").rglob("*") if x.is_file()]
    for path in files_of:
        target = Path(config.out_dir) / path.relative_to(written / "each")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return available(Path(config.out_dir))[-1]


def test_the_files_hold_what_one_file_holds(written):
    each, one = (available(written / name)[-1] for name in ("each", "one"))
    shards = ["shard_00000.safetensors", "shard_00001.safetensors"]
    assert sorted(x.name for x in each.iterdir()) == [
        "manifest.json",
        *shards,
        "tensors.safetensors",
        "values.json",
    ]
    sizes = [(each / name).stat().st_size for name in shards]
    assert abs(sizes[0] - sizes[1]) < 0.1 * sizes[0]
    assert not any(name.startswith("/state/model/") for name in reading.headers(each / "tensors.safetensors"))
    trees = [checkpoint.load(folder).tree["state"] for folder in (each, one)]
    assert redistribution.digest(trees[0]) == redistribution.digest(trees[1]) == runs.digest(written / "one")
    assert runs.digest(written / "each") == redistribution.digest(trees[1], ALONE, of_shards=True)
    assert all(finding.good for finding in verify(written / "each", deep=True))


@pytest.mark.parametrize(
    ("size", "parallel", "shards"), [(1, "ddp", "one"), (2, "ddp", "one"), (2, "fsdp", "each"), (4, "fsdp", "one")]
)
def test_any_processes_take_it_up(written, config, size, parallel, shards):
    """The digest of the state is compared as they do so; of the two that go on as they were, the later one too."""
    copied(written, config)
    launch = runs.in_child if size == 1 else partial(ranks.in_group, size)
    more = replace(runs.again(config), parallel=parallel, checkpoint_shards=shards, max_iters=8)
    assert launch(runs.train, more) == 0
    run = read_run(Path(config.out_dir))
    assert [(note["step"], note["exact"]) for note in run.resumes] == [(6, True)]
    assert run.rows[-1]["step"] == 8


def test_a_stopped_run_goes_on_bit_for_bit(config):
    whole = replace(config, out_dir=config.out_dir + "-whole", digest_interval=1, max_iters=8, lr_decay_iters=8)
    part = replace(whole, out_dir=config.out_dir)
    assert ranks.in_group(2, runs.train, whole) == 0
    assert ranks.in_group(2, resumes.train_until, part, 4, ()) == 143
    assert runs.last_steps(config.out_dir)[1] == 5
    assert ranks.in_group(2, runs.train, runs.again(part)) == 0
    assert runs.finished(whole.out_dir) == runs.finished(part.out_dir)


def test_replicas_write_once_and_shards_of_one_file_go_on_in_many(config):
    hybrid = replace(config, parallel="hybrid")
    assert ranks.in_group(4, runs.train, hybrid, local_size=2) == 0
    assert len(list(available(Path(config.out_dir))[-1].glob("shard_*"))) == 2
    more = replace(runs.again(config), parallel="fsdp", max_iters=8)
    assert ranks.in_group(2, runs.train, more) == 0
    assert read_run(Path(config.out_dir)).resumes[0]["exact"] is True


def without_the_folder(config):
    """As on another machine, which doesn't see the files."""
    if os.environ["RANK"] == "1":
        redistribution.same_here = lambda *_: None
    runs.train(config)


def test_a_process_that_does_not_see_the_files_is_sent_them(written, config):
    copied(written, config)
    assert ranks.in_group(2, without_the_folder, replace(runs.again(config), max_iters=7)) == 0
    assert read_run(Path(config.out_dir)).resumes[0]["exact"] is True


def failing_in_the_second_save(config, rank, mode, part):
    """A fault at the `part`-th change of the disk that this process makes in the save of step 6."""
    write, saves = checkpoint.write, []

    def faulty(*arguments):
        saves.append(1)
        if len(saves) == 2 and os.environ["RANK"] == str(rank):
            files.os = FaultyOs(part, mode)
        try:
            return write(*arguments)
        finally:
            files.os = os

    checkpoint.write = faulty
    runs.train(config)


@pytest.mark.parametrize(("on_error", "code"), [("warn", 0), ("abort", 4)])
@pytest.mark.parametrize(("rank", "mode", "part"), [(0, "ENOSPC", 1), (1, "ENOSPC", 2), (1, "EIO", 3)])
def test_a_disk_that_fails_one_process_fails_the_save_of_all(config, on_error, code, rank, mode, part):
    """With warn, the run goes on, all of it, and the next checkpoint is good."""
    mine = replace(config, on_save_error=on_error, max_iters=9)
    assert ranks.in_group(2, failing_in_the_second_save, mine, rank, mode, part) == code
    steps = [3, 9] if on_error == "warn" else [3]
    assert [x.name for x in available(Path(config.out_dir))] == [f"step_{step:08d}" for step in steps]
    assert leftovers(Path(config.out_dir)) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_in_a_save_leaves_no_checkpoint(config, rank):
    codes = ranks.in_group(2, failing_in_the_second_save, config, rank, "KILL", 2)
    assert codes == ([-9, 6] if rank == 0 else [6, -9])
    assert [x.name for x in available(Path(config.out_dir))] == ["step_00000003"]
    assert ranks.in_group(2, runs.train, runs.again(config)) == 0
    assert runs.last_steps(config.out_dir) == (6, 6)


def test_flipped_bits_of_pieces_are_found(written, config):
    folder = copied(written, config)
    assert rot.not_refused(folder, folder) == "loaded"
    assert rot.flips(folder, 60, random.Random(0)).failures == []
    assert rot.truncations(folder, 40, random.Random(0)).failures == []


def test_a_damaged_piece_costs_one_interval(written, config):
    folder = copied(written, config)
    content = bytearray((folder / "shard_00001.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "shard_00001.safetensors").write_bytes(content)
    assert ranks.in_group(2, runs.train, runs.again(config)) == 0
    assert read_run(Path(config.out_dir)).resumes[0]["step"] == 3
    assert folder.with_name("step_00000006.damaged").is_dir()


def forged(change):
    def forge(folder):
        text = (folder / reading.VALUES).read_text()
        (folder / reading.VALUES).write_text(change(text))

    return forge


def swapped(folder):
    first, second = (folder / reading.shard_name(i) for i in range(2))
    first.write_bytes(second.read_bytes())


ATTACKS = {
    "one piece more than there are": forged(lambda text: text.replace('"count": 2', '"count": 3')),
    "one piece less": forged(lambda text: text.replace('"count": 2', '"count": 1')),
    "pieces without end": forged(lambda text: text.replace('"count": 2', f'"count": {10**9}')),
    "a number of pieces in words": forged(lambda text: text.replace('"count": 2', '"count": "../x"')),
    "a whole of another length": forged(lambda text: text.replace('["F32", [16]]', '["F32", [18]]')),
    "a shape of 2^62": forged(lambda text: text.replace('["F32", [16]]', f'["F32", [{1 << 62}]]')),
    "a length below 0": forged(lambda text: text.replace('["F32", [16]]', '["F32", [-16]]')),
    "another type": forged(lambda text: text.replace('["F32", [16]]', '["I32", [16]]')),
    "no tensor of the model": forged(lambda text: text.replace('"/state/model/ln_f.weight":', '"/../x":')),
    "a file of pieces twice": swapped,
    "a file above": lambda folder: (folder / reading.shard_name(1)).rename(folder / "shard_..safetensors"),
    "a file gone": lambda folder: (folder / reading.shard_name(1)).unlink(),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_forged_pieces_are_refused(written, config, name):
    folder = copied(written, config)
    ATTACKS[name](folder)
    reseal(folder)
    with pytest.raises(CheckpointError, match="expected one that this version wrote, got"):
        checkpoint.load(folder)
    assert not verify(folder, deep=True)[0].good


def test_a_fingerprint_changes_with_each_bit_place_name_type_and_shape():
    x = torch.arange(70_000, dtype=torch.float32).reshape(7, 10_000)
    bit = x.clone()
    bit.view(torch.int32)[6, 9_999] ^= 1
    swapped = x.clone()
    swapped[0, 0], swapped[0, 1] = x[0, 1], x[0, 0]
    far = x.flatten().clone()
    far[[0, fingerprint.CHUNK]] = far[[fingerprint.CHUNK, 0]]
    trees = [
        {"x": x},
        {"y": x},
        {"x": bit},
        {"x": swapped},
        {"x": far.view_as(x)},
        {"x": x.T},
        {"x": x.view(torch.int32)},
    ]
    trees += [{"x": x, "y": torch.zeros(0)}, {"x": x.bfloat16()}, {"x": x.double()}]
    assert len({redistribution.digest(tree, ALONE, of_shards=True) for tree in trees}) == len(trees)
    assert redistribution.digest({"x": x.T.contiguous().T}, ALONE, True) == redistribution.digest({"x": x}, ALONE, True)


def hanging_in_a_save(config):
    def write(*_):
        os.kill(os.getpid(), signal.SIGSTOP)

    if os.environ["RANK"] == "1":
        checkpoint.write = write
    runs.train(config)


def test_a_process_that_hangs_in_a_save_ends_the_others(config):
    members = ranks.Group(2, hanging_in_a_save, replace(config, distributed_timeout=2.0))
    members.processes[0].join(20)
    assert members.codes(0) == [6, None]
    assert available(Path(config.out_dir)) == []


def test_it_is_refused_in_the_background():
    with pytest.raises(ConfigError, match="background_save: expected false with checkpoint_shards=each"):
        parsing.load(["--background_save=True", "--checkpoint_shards=each"])


def held_rows():
    """The rows that this process copies of a tensor of 9 rows, and those of its snapshot."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (4,))
    x = distribute_tensor(torch.arange(18.0).reshape(9, 2), mesh, [Shard(0)])
    taken = checkpoint.snapshot(checkpoint.Checkpoint(1, {"x": x, "y": torch.ones(2)}))
    return [taken.pieces["/x"][:, 0].tolist(), sorted(taken.tensors), taken.bytes - checkpoint.SPARE_BYTES]


def test_a_snapshot_holds_the_rows_of_its_process():
    held = group.run(4, held_rows)
    assert [x[0] for x in held] == [[0, 2, 4], [6, 8, 10], [12, 14, 16], []]
    assert all(x[1:] == [["/y"], 18 * 4 + 8] for x in held)
