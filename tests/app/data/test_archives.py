"""Archives are read in a stream, member by member: none can write a file, fill the memory, or be unpickled.

Catches: a path that leads out of the folder, links, devices, bombs, a million members, arrays of objects.
"""

import gzip
import io
import os
import pickle
import random
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mada_lab.data.archives import npz_arrays, tar_members
from mada_lab.errors import DataError
from tests.app.data.test_corpus import Bomb

EXPECTED = {"d/a.bin": 1000, "d/b.bin": 10}
A, B = b"a" * 1000, b"b" * 10


@contextmanager
def small_memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def regular(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def test_wanted_members_come_out_and_nothing_else(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar.gz", regular("d/b.bin", B), regular("d/readme", b"hello"), regular("d/a.bin", A))
    assert list(tar_members(path, EXPECTED)) == [("d/b.bin", B), ("d/a.bin", A)]


GOOD = (regular("d/a.bin", A), regular("d/b.bin", B))
HOSTILE = {
    "dots": [*GOOD, regular("../outside", b"x"), regular("d/../../outside", b"x")],
    "absolute": [*GOOD, regular("/tmp/outside", b"x")],
    "link and through it": [*GOOD, special("d/link", tarfile.SYMTYPE, ".."), regular("d/link/outside", b"x")],
    "hard link": [*GOOD, special("d/hard", tarfile.LNKTYPE, "d/a.bin")],
    "device": [*GOOD, special("d/null", tarfile.CHRTYPE), special("d/pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile_members_beside_the_wanted_ones_do_nothing(
    members: list[tuple[tarfile.TarInfo, bytes]], tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "x.tar.gz", *members)
    assert dict(tar_members(path, EXPECTED)) == {"d/a.bin": A, "d/b.bin": B}
    assert os.listdir(tmp_path) == ["x.tar.gz"]


@pytest.mark.parametrize(
    "members",
    [
        [regular("d/a.bin", A)],
        [regular("d/a.bin", A), regular("d/b.bin", B), regular("d/a.bin", A)],
        [regular("d/a.bin", A[:-1]), regular("d/b.bin", B)],
        [regular("d/a.bin", A + b"x"), regular("d/b.bin", B)],
        [special("d/a.bin", tarfile.SYMTYPE, "/etc/passwd"), regular("d/b.bin", B)],
        [regular("d/b.bin", B), special("d/a.bin", tarfile.LNKTYPE, "d/b.bin")],
        [special("d/a.bin", tarfile.DIRTYPE), regular("d/b.bin", B)],
    ],
    ids="missing twice short long link hardlink folder".split(),
)
def test_wanted_members_must_be_files_of_their_length(
    members: list[tuple[tarfile.TarInfo, bytes]], tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "x.tar.gz", *members)
    with pytest.raises(DataError, match=r"x\.tar\.gz, member d/[ab]\.bin: expected"):
        list(tar_members(path, EXPECTED))


def test_tar_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A hundred megabytes of zeros in a member that nobody wants, in a hundred kilobytes."""
    path = tmp_path / "x.tar.gz"
    info = tarfile.TarInfo("zeros")
    info.size = 100_000_000
    with gzip.open(path, "wb", compresslevel=1) as packed:
        packed.write(info.tobuf())
        for _ in range(100):
            packed.write(bytes(1_000_000))
    assert path.stat().st_size < 500_000
    with small_memory(8_000_000), pytest.raises(DataError, match="expected its members alone, got more"):
        list(tar_members(path, EXPECTED))


def test_million_members_are_not_counted(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar.gz", *(regular(f"{i}", b"") for i in range(1500)))
    with pytest.raises(DataError, match="expected 1000 members at most, got more"):
        list(tar_members(path, EXPECTED))


def test_damaged_tar_is_an_error_whatever_the_damage(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar.gz", *GOOD)
    packed, draw = path.read_bytes(), random.Random(0)
    plain = gzip.decompress(packed)
    refused = 0
    for round_ in range(200):
        if round_ % 2:
            damaged = bytearray(packed)
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged if round_ % 4 == 1 else packed[: draw.randrange(len(packed))])
        else:
            damaged = bytearray(plain)
            for _ in range(3):  # in the headers and in the first member
                damaged[draw.randrange(2048)] = draw.randrange(256)
            path.write_bytes(gzip.compress(damaged, 1))
        try:
            list(tar_members(path, EXPECTED))
        except DataError:
            refused += 1
    assert refused > 100


# ---- npz ----

ARRAYS = {
    "numbers": np.arange(5, dtype=np.int64),
    "bytes": np.arange(200, dtype=np.uint8),
    "names": np.array(["cat", "frog"]),
}
KINDS = {"numbers": "i8", "bytes": "u1", "names": "U"}


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_arrays_come_out_as_they_were(tmp_path: Path) -> None:
    found = npz_arrays(save(tmp_path / "x.npz", **ARRAYS, other=np.zeros((2, 2))), KINDS, 10_000)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_byte_order_is_the_headers(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", **(ARRAYS | {"numbers": np.arange(5, dtype=">i8")}))
    assert npz_arrays(path, KINDS, 10_000)["numbers"].tolist() == [0, 1, 2, 3, 4]


def test_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "x.npz"
    np.savez(path, **{**ARRAYS, "numbers": np.array([Bomb(canary)], dtype=object)})
    with np.load(path, allow_pickle=True) as naive:
        naive["numbers"]
    assert canary.exists(), "the bomb must work for this test to show anything"
    canary.rmdir()
    with pytest.raises(DataError, match=r"numbers\.npy: expected one dimension of type i8, and no objects"):
        npz_arrays(path, KINDS, 10_000)
    path.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(DataError, match="expected a zip file"):
        npz_arrays(path, KINDS, 10_000)
    assert not canary.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"numbers": np.arange(5, dtype=np.int32)},
        {"numbers": np.zeros((5, 1), dtype=np.int64)},
        {"bytes": np.zeros(10_001, dtype=np.uint8)},
        {"names": np.arange(2)},
    ],
    ids="narrow matrix large numbers".split(),
)
def test_arrays_must_be_of_their_kind(change: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", **(ARRAYS | change))
    with pytest.raises(DataError, match=rf"member {next(iter(change))}\.npy: expected"):
        npz_arrays(path, KINDS, 10_000)


def test_missing_array_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", bytes=ARRAYS["bytes"], names=ARRAYS["names"])
    with pytest.raises(DataError, match=r"member numbers\.npy: expected it there once"):
        npz_arrays(path, KINDS, 10_000)


def zip_of(path: Path, write: Callable[[zipfile.ZipFile], object]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        write(archive)
    return path


def test_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.npz", lambda archive: archive.writestr("numbers.npy", bytes(200_000_000)))
    assert path.stat().st_size < 500_000
    with small_memory(8_000_000), pytest.raises(DataError, match="expected at most 10000 bytes"):
        npz_arrays(path, KINDS, 10_000)


def test_zip_that_lies_about_a_length_is_refused(tmp_path: Path) -> None:
    """The directory says 100 bytes, the stream has 200 million; no more than it says is unpacked."""
    path = zip_of(tmp_path / "x.npz", lambda archive: archive.writestr("numbers.npy", bytes(200_000_000)))
    content = path.read_bytes().replace((200_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(content)
    with small_memory(8_000_000), pytest.raises(DataError, match="expected npz, got"):
        npz_arrays(path, KINDS, 10_000)


def test_zip_with_a_large_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    def many(archive: zipfile.ZipFile) -> None:
        for i in range(3000):
            archive.writestr(f"{i}", b"")

    path = zip_of(tmp_path / "x.npz", many)
    with small_memory(2_000_000), pytest.raises(DataError, match="expected a zip file with a directory of at most"):
        npz_arrays(path, KINDS, 10_000)
    content = path.read_bytes()
    pointer = b"PK\x06\x07" + bytes(16)
    path.write_bytes(content[:-22] + pointer + content[-22:-10] + (10).to_bytes(4, "little") + content[-6:])
    with pytest.raises(DataError, match="expected a zip file with a directory of at most"):
        npz_arrays(path, KINDS, 10_000)


def test_damaged_npz_is_an_error_whatever_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **ARRAYS)  # not compressed, so that flips reach the headers
    packed, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for round_ in range(400):
        damaged = bytearray(packed)
        for _ in range(1 + round_ % 3):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if round_ % 4 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            npz_arrays(path, KINDS, 10_000)
        except DataError:
            refused += 1
    assert refused > 300
