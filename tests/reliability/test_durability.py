"""What a function of `mada_lab.system.files` has done survives a loss of power; what failed can be done again.

Catches: a flush of a file or of a folder that is missing, a torn write that the next one is added to.
"""

import os

import pytest

from mada_lab.records.run_record import RunRecord, read_run
from mada_lab.system import files
from tests.reliability.faults import Died, FaultyOs


def new_folder(folder):
    with files.new_folder(folder / "new") as part:
        files.write_new(part / "file", [b"new"])


DONE = {
    "write_atomic": (lambda folder: files.write_atomic(folder / "old", "new"), {"old": "new"}),
    "write_atomic, a new file": (
        lambda folder: files.write_atomic(folder / "new", "new"),
        {"old": "old", "new": "new"},
    ),
    "new_folder": (new_folder, {"old": "old", "new/file": "new"}),
    "rename": (lambda folder: files.rename(folder / "old", folder / "new"), {"new": "old"}),
}


@pytest.fixture
def cut_power(monkeypatch):
    """Runs `work`, and then the power fails, at the first change of the disk that comes after it."""

    def run(work, folder):
        monkeypatch.setattr(files, "os", broken := FaultyOs(mode="POWER", in_process=True))
        work()
        broken.at = len(broken.changes) + 1
        with pytest.raises(Died):
            files.open_to_lock(folder / "next")
        monkeypatch.setattr(files, "os", os)
        return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}

    return run


@pytest.mark.parametrize("name", DONE)
def test_what_is_done_stays_done(tmp_path, cut_power, name):
    work, expected = DONE[name]
    (tmp_path / "old").write_text("old")
    assert cut_power(lambda: work(tmp_path), tmp_path) == expected


def test_folders_that_were_made_are_there(tmp_path, cut_power):
    cut_power(lambda: files.make_folder(tmp_path / "a" / "b"), tmp_path)
    assert (tmp_path / "a" / "b").is_dir()


def test_rows_before_a_checkpoint_stay(tmp_path, cut_power):
    record = RunRecord.create(tmp_path / "run", {})

    def work():
        record.log({"step": 0})
        record.sync()
        record.log({"step": 1, "train_loss": 0.123456789})

    left = cut_power(work, tmp_path)
    assert left["run/metrics.jsonl"].startswith('{"step": 0}\n{"step": 1, "tr')
    assert not left["run/metrics.jsonl"].endswith("\n")  # the injector did take what it may
    assert [row["step"] for row in read_run(tmp_path / "run").rows] == [0]


@pytest.mark.parametrize("mode", ["ENOSPC", "EIO"])
def test_a_torn_row_is_written_again_whole(tmp_path, monkeypatch, caplog, mode):
    record = RunRecord.create(tmp_path / "run", {})
    record.log({"step": 0})
    monkeypatch.setattr(files, "os", FaultyOs(2, mode))
    record.log({"step": 1, "train_loss": 0.123456789})
    assert (tmp_path / "run" / "metrics.jsonl").read_text().startswith('{"step": 0}\n{"step": 1, "tr')
    assert "the row waits in memory" in caplog.text
    record.log({"step": 2})
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() == [
        '{"step": 0}',
        '{"step": 1, "train_loss": 0.123456789}',
        '{"step": 2}',
    ]


@pytest.mark.parametrize("at", range(1, 6))
def test_a_failed_write_leaves_no_part_of_it(tmp_path, monkeypatch, at):
    """Open, write, flush, rename; only the flush of the folder comes when the new content is there."""
    (tmp_path / "old").write_text("old")
    monkeypatch.setattr(files, "os", FaultyOs(at, "EIO"))
    with pytest.raises(OSError, match="Input/output error"):
        files.write_atomic(tmp_path / "old", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "old" if at < 5 else "new"}


def test_many_small_pieces_are_few_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "os", counter := FaultyOs())
    pieces = [bytes([i % 256]) * size for i, size in enumerate([1, 0, 1000] * 300 + [1 << 20, 3 << 20, 5])]
    files.write_new(tmp_path / "file", pieces)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)
    assert [name for name, _ in counter.changes].count("write") == 4
