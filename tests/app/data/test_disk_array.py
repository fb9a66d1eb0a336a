"""Arrays on the disk behave as numpy's, and a file that changes while it's in use is an error, never a signal.

Catches: a map where a read should be (the process would die of SIGBUS), wrong offsets, an id that no embedding has a
row for.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mada_lab.data import corpus, disk_array
from mada_lab.data.batches import Batches
from mada_lab.data.corpus import Corpus
from mada_lab.data.disk_array import DiskArray
from mada_lab.errors import DataError

VALUES = np.random.default_rng(0).integers(0, 1000, (50, 3)).astype("<u2")


@pytest.fixture
def build(tmp_path: Path) -> Callable[[NDArray[np.uint16]], DiskArray]:
    def write(values: NDArray[np.uint16], limit: int = 1000) -> DiskArray:
        (tmp_path / "x.bin").write_bytes(values.tobytes())
        return DiskArray(tmp_path / "x.bin", np.dtype("<u2"), values.shape, limit, "mend it")

    return write


@pytest.mark.parametrize("values", [VALUES, VALUES[:, 0].copy()], ids=["rows", "numbers"])
def test_indexing_is_numpys(build: Callable[..., DiskArray], values: NDArray[np.uint16]) -> None:
    array = build(values)
    assert (len(array), array.shape, array.ndim, array.dtype) == (50, values.shape, values.ndim, np.dtype("<u2"))
    for rows in (slice(None), slice(3, 7), slice(-4, None), slice(7, 3), slice(40, 99), 0, 49, -1, np.int64(5)):
        assert np.array_equal(array[rows], values[rows]), rows
        assert array[rows].dtype == values.dtype
    for numbers in ([4, 4, 0, -1], [], range(50)):
        picked = np.array(numbers, dtype=np.int64)
        assert np.array_equal(array[picked], values[picked])
    assert np.array_equal(np.asarray(array), values)
    assert np.array_equal(np.concatenate(list(array.chunks())), values)
    for wrong in (50, -51, slice(0, 4, 2)):
        with pytest.raises(IndexError):
            array[wrong]


def test_what_is_read_is_a_copy(build: Callable[..., DiskArray]) -> None:
    array = build(VALUES)
    array[0][:] = 7
    assert np.array_equal(array[0], VALUES[0])


def test_chunks_are_small(build: Callable[..., DiskArray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_array, "CHUNK_BYTES", 20)
    array = build(VALUES)
    assert [len(chunk) for chunk in array.chunks()] == [3] * 16 + [2]
    assert np.array_equal(np.concatenate(list(array.chunks())), VALUES)


@pytest.mark.parametrize("at", [(0, 0), (49, 2), (17, 1)])
def test_number_out_of_range_is_named_when_it_is_read(build: Callable[..., DiskArray], at: tuple[int, int]) -> None:
    values = VALUES.copy()
    values[at] = 65535  # -1, where someone wrote int16
    array = build(values)
    offset = at[0] * 3 + at[1]
    for rows in (slice(None), at[0], np.array([at[0]])):
        with pytest.raises(DataError, match=rf"x\.bin: expected numbers in \[0, 1000\), got 65535 at offset {offset};"):
            array[rows]
    array[np.array([row for row in range(50) if row != at[0]])]


def test_batch_with_an_id_out_of_range_is_refused_before_the_embedding(build: Callable[..., DiskArray]) -> None:
    values = VALUES[:, 0].copy()
    values[20] = 1000
    batches = Batches(build(values), block_size=40, batch_size=4, seed=0)
    with pytest.raises(DataError, match=r"got 1000 at offset 20; mend it"):
        batches.next()


def test_file_shortened_in_use(build: Callable[..., DiskArray]) -> None:
    array = build(VALUES)
    os.truncate(array.path, 151)
    assert np.array_equal(array[0], VALUES[0])
    with pytest.raises(DataError, match=r"x\.bin: expected 300 bytes, got 151; mend it"):
        array[:]


def test_open_file_survives_its_replacement(build: Callable[..., DiskArray]) -> None:
    """Someone prepares the set afresh while a run reads it: the run goes on with what it started with."""
    array = build(VALUES)
    array.path.with_name("new").write_bytes(b"\0" * 300)
    os.replace(array.path.with_name("new"), array.path)
    assert np.array_equal(array[:], VALUES)


def test_truncation_under_a_map_would_kill_and_here_it_does_not(tiny_set: Path) -> None:
    """The same program with a map first, to show that there is something to survive."""
    program = """
        import os, sys, numpy as np
        from pathlib import Path
        from mada_lab.data.batches import Batches
        from mada_lab.data.corpus import Corpus
        from mada_lab.errors import DataError
        folder = Path(sys.argv[1])
        file = folder / "train.bin"
        corpus = Corpus.open(folder)
        tokens = np.memmap(file, "u1", "r") if sys.argv[2] == "map" else corpus.train
        batches = Batches(tokens, 8, 4, seed=0)
        batches.next()
        os.truncate(file, 0)
        try:
            batches.next()
        except DataError as error:
            print(error)
            sys.exit(error.exit_code)
    """
    content = (tiny_set / "train.bin").read_bytes()
    results = {}
    for kind in ("map", "read"):
        (tiny_set / "train.bin").write_bytes(content)
        command = [sys.executable, "-c", textwrap.dedent(program), str(tiny_set), kind]
        results[kind] = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert results["map"].returncode == -signal.SIGBUS
    assert results["read"].returncode == 3, results["read"].stderr
    assert f"train.bin: expected {len(content)} bytes, got 0; delete the folder" in results["read"].stdout


def test_long_file_is_verified_beside_the_run(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed since the preparation, with name and size as before, is refused as soon as it's found."""
    content = (tiny_set / "val.bin").read_bytes()
    (tiny_set / "val.bin").write_bytes(content[::-1])
    monkeypatch.setattr(corpus, "VERIFIED_AT_OPEN_BYTES", 0)
    opened = Corpus.open(tiny_set)
    give_up = time.monotonic() + 20
    while opened.val.fault is None and time.monotonic() < give_up:
        time.sleep(0.01)
    with pytest.raises(DataError, match=r"val\.bin: expected sha256"):
        opened.val[0]
    assert opened.train[0] >= 0
    opened.verify("train")


def test_background_check_of_a_good_file_leaves_no_fault(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "VERIFIED_AT_OPEN_BYTES", 0)
    opened = Corpus.open(tiny_set)
    thread = corpus.verify_or_watch(opened.train, opened.sha256["train"])
    assert thread is not None
    thread.join(20)
    assert opened.train.fault is None
