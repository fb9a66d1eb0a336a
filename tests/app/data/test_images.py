"""Image data sets: pixels and labels are those of the source, and no damage goes unseen.

Catches: planes taken for rows of pixels, labels that slip, a sidecar that lies, a file that is no picture.
"""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mada_lab.data import catalog, image_sources
from mada_lab.data.catalog import ImageSet
from mada_lab.data.corpus import Corpus
from mada_lab.data.image_sources import Cifar10
from mada_lab.data.images import ImageData
from mada_lab.data.prepare import prepare
from mada_lab.errors import ConfigError, DataError
from tests.app.data.conftest import digest, pinned

NAMES = ("test_images.bin", "test_labels.bin", "train_images.bin", "train_labels.bin")


def jpeg(grey: int, size: tuple[int, int] = (32, 32), mode: str = "RGB", kind: str = "JPEG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).convert(mode).save(content, kind)
    return content.getvalue()


def write_npz(path: Path, **change: Any) -> Path:
    """Five training images of different grey, and two test images."""
    arrays: dict[str, Any] = {"classes": np.array(Cifar10.classes)}
    for split, greys in (("train", (0, 50, 100, 150, 200)), ("test", (25, 75))):
        files = [jpeg(grey) for grey in greys]
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{split}_labels"] = np.arange(len(greys), dtype=np.uint8)
    np.savez_compressed(path, **(arrays | change))
    return path


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    opened = ImageData.open(prepare("digits", tmp_path))
    digits = load_digits()
    assert opened.train.images.shape == (1437, 8, 8, 1)
    assert opened.test.images.shape == (360, 8, 8, 1)
    assert (opened.meta.brightest, opened.meta.classes) == (16, tuple("0123456789"))
    images = np.concatenate([opened.train.images[:], opened.test.images[:]])[..., 0]
    labels = np.concatenate([opened.train.labels[:], opened.test.labels[:]])
    assert np.array_equal(images, digits.images)
    assert np.array_equal(labels, digits.target)
    with pytest.raises(ConfigError, match="leave it out"):
        prepare("digits", tmp_path / "other", tmp_path)


def test_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "c.npz")
    first, second = (prepare("cifar10", tmp_path / run, path) for run in "ab")
    assert sorted(file.name for file in first.iterdir()) == sorted([*NAMES, "meta.json"])
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()
    assert prepare("cifar10", tmp_path / "a") == first


def test_jpegs_are_decoded_in_order(tmp_path: Path) -> None:
    opened = ImageData.open(prepare("cifar10", tmp_path, write_npz(tmp_path / "c.npz")))
    assert opened.train.images.shape == (5, 32, 32, 3)
    assert opened.train.images[np.array([4, 0, 2])][:, 7, 9, 1].tolist() == [200, 0, 100]
    assert opened.train.labels[:].tolist() == [0, 1, 2, 3, 4]
    assert opened.test.images[:][:, 0, 0, 0].tolist() == [25, 75]
    assert opened.meta.source == "JPEG copy of CIFAR-10: c.npz"
    files = {name: digest((opened.folder / f"{name}.bin").read_bytes()) for name in opened.sha256}
    assert opened.sha256 == files
    assert len(files) == 4


def write_binary(path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """A binary version with 20 records a file; returns all."""
    monkeypatch.setattr(image_sources, "RECORDS", 20)
    records = np.random.default_rng(0).integers(0, 256, (120, 3073), np.uint8)
    records[:, 0] %= 10
    parts = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    with tarfile.open(path, "w:gz") as tar:
        for number in (3, 0, 5, 1, 2, 4):  # in no order, as a tar may be
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{parts[number]}.bin")
            info.size = 20 * 3073
            tar.addfile(info, io.BytesIO(records[number * 20 : (number + 1) * 20].tobytes()))
    file = replace(pinned(path.read_bytes()), url=catalog.CIFAR10_BINARY.url)
    monkeypatch.setitem(catalog.DATA_SETS, "cifar10", ImageSet(source=Cifar10(file)))
    return records


def test_binary_version_has_planes_of_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = write_binary(tmp_path / "c.tar.gz", monkeypatch)
    opened = ImageData.open(prepare("cifar10", tmp_path, tmp_path / "c.tar.gz"))
    assert (len(opened.train), len(opened.test)) == (100, 20)
    assert np.array_equal(opened.train.labels[:], records[:100, 0])
    for number in (0, 39, 99):
        for y, x, channel in ((0, 0, 0), (0, 31, 1), (31, 0, 2), (17, 5, 1)):
            assert opened.train.images[number][y, x, channel] == records[number, 1 + channel * 1024 + y * 32 + x]
    assert opened.test.images[19][2, 3, 2] == records[119, 1 + 2048 + 2 * 32 + 3]
    assert opened.meta.source == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


def test_archive_must_be_the_pinned_one(tmp_path: Path) -> None:
    (tmp_path / "c.tar.gz").write_bytes(b"not it")
    with pytest.raises(DataError, match=r"c\.tar\.gz: expected 170052171 bytes, got 6;"):
        prepare("cifar10", tmp_path / "data", tmp_path / "c.tar.gz")
    assert not (tmp_path / "data").exists()


FIRST = jpeg(9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": np.array(["cat", "dog"])}, "expected airplane"),
        ({"train_labels": np.zeros(4, np.uint8)}, "expected one for each image, got 4"),
        ({"train_offsets": np.array([0, 5, 5])}, "expected them to rise from 0"),
        ({"train_offsets": np.array([-1, 10])}, "expected them to rise from 0"),
        ({"train_offsets": np.array([0, 1 << 40])}, "expected them to rise from 0"),
        ({"train_offsets": np.array([], dtype=np.int64)}, "expected them to rise from 0"),
        (FIRST[:-300], "image 0, in .*: expected a JPEG"),
        (b"GIF89a" + FIRST, "image 0, in .*: expected a JPEG"),
        (jpeg(9, kind="PNG"), "image 0, in .*: expected a JPEG"),
        (jpeg(9, size=(33, 32)), r"got RGB of \(33, 32\)"),
        (jpeg(9, size=(2000, 2000)), r"of \(2000, 2000\)"),
        (jpeg(9, mode="L"), r"got L of \(32, 32\)"),
    ],
    ids=lambda x: "" if isinstance(x, bytes) else None,
)
def test_damaged_copy_changes_nothing(change: dict[str, Any] | bytes, message: str, tmp_path: Path) -> None:
    if isinstance(change, bytes):
        offsets, labels = np.array([0, len(change)]), np.zeros(1, np.uint8)
        change = {"train_jpeg": np.frombuffer(change, np.uint8), "train_offsets": offsets, "train_labels": labels}
    path = write_npz(tmp_path / "c.npz", **change)
    with pytest.raises(DataError, match=message) as caught:
        prepare("cifar10", tmp_path / "data", path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_label_without_a_class_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "c.npz", train_labels=np.array([0, 1, 2, 3, 10], np.uint8))
    with pytest.raises(DataError, match=r"labels, in .*c\.npz: expected numbers in \[0, 10\), got 10"):
        prepare("cifar10", tmp_path / "data", path)
    assert not (tmp_path / "data").exists()


def test_every_flipped_bit_and_every_length_is_found(tmp_path: Path) -> None:
    folder = prepare("cifar10", tmp_path, write_npz(tmp_path / "c.npz"))
    for name in NAMES:
        content = (folder / name).read_bytes()
        for wrong in (content[:-1], content + b"\0", b"", bytes([content[0] ^ 1]) + content[1:]):
            (folder / name).write_bytes(wrong)
            with pytest.raises(DataError, match=f"{name}: expected"):
                ImageData.open(folder)
        (folder / name).write_bytes(content)
    ImageData.open(folder)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("format_version", [2, None]),
        ("kind", ["text", None]),
        ("dtype", ["float32", None]),
        ("name", [1]),
        ("source", [None]),
        ("shape", [[32, 32], [0, 32, 3], [65536, 1, 1], [32.0, 32, 3], "32", None]),
        ("brightest", [0, 256, True, None]),
        ("classes", [[], "cat", [1], None, ["x"] * 257]),
        ("splits", [{}, {"train": {}}, {"train": 1, "test": 1}, None]),
    ],
)
def test_sidecar_is_believed_in_nothing(key: str, values: list[object], tmp_path: Path) -> None:
    folder = prepare("cifar10", tmp_path, write_npz(tmp_path / "c.npz"))
    meta = json.loads((folder / "meta.json").read_text())
    for value in values:
        (folder / "meta.json").write_text(json.dumps(meta | {key: value}))
        with pytest.raises(DataError, match=f"key {key}"):
            ImageData.open(folder)
    for part, value in (("images", 1 << 62), ("images", 0), ("images_sha256", None), ("labels_sha256", 1)):
        train = meta["splits"]["train"] | {part: value}
        (folder / "meta.json").write_text(json.dumps(meta | {"splits": meta["splits"] | {"train": train}}))
        with pytest.raises(DataError, match=r"expected"):
            ImageData.open(folder)


def test_text_is_no_images(tmp_path: Path) -> None:
    folder = prepare("pydoc", tmp_path)
    with pytest.raises(DataError, match="key kind: expected 'images', got None"):
        ImageData.open(folder)
    images = prepare("cifar10", tmp_path, write_npz(tmp_path / "c.npz"))
    with pytest.raises(DataError, match="expected a data set of text, got one of images"):
        Corpus.open(images)


def test_large_blocks_are_decoded_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a block of images is no end of a split."""
    path = write_npz(tmp_path / "c.npz")
    whole = prepare("cifar10", tmp_path / "a", path)
    monkeypatch.setattr(image_sources, "BLOCK", 2)
    parts = prepare("cifar10", tmp_path / "b", path)
    for name in NAMES:
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_reference_copy(tmp_path: Path, reference: Path) -> None:
    opened = ImageData.open(prepare("cifar10", tmp_path, reference / "data" / "cifar10" / "cifar10_jpeg.npz"))
    assert (len(opened.train), len(opened.test)) == (50_000, 10_000)
    assert np.bincount(opened.train.labels[:]).tolist() == [5000] * 10
    assert np.bincount(opened.test.labels[:]).tolist() == [1000] * 10
