"""Sources of labeled images, decoded to uint8 of shape (height, width, channels)."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mada_lab.data.archives import npz_arrays, tar_members
from mada_lab.data.download import PinnedFile, describe, fetch, require_pinned
from mada_lab.data.sources import require_none
from mada_lab.errors import DataError
from mada_lab.system import optional

BLOCK = 1000  # images decoded at a time
RECORDS = 10_000  # in a file of the binary version
Labeled = tuple[str, NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Pictures:
    """Images of a source."""

    origin: str  #: their source, in words
    shape: tuple[int, int, int]  #: height, width and channels of each
    brightest: int  #: the largest value of a pixel
    classes: tuple[str, ...]  #: names by label
    #: the name of a split, images (n, height, width, channels) and labels (n,), both uint8, in order
    batches: Iterator[Labeled]


@dataclass(frozen=True)
class Digits:
    """The 8 x 8 digits of scikit-learn; no network is needed."""

    def open(self, given: Path | None, downloads: Path) -> Pictures:
        """All digits in scikit-learn's order; the last fifth is for testing."""
        require_none(given, "the digits of scikit-learn")
        digits = optional.load("sklearn.datasets", "scikit-learn").load_digits()
        images = digits.images.astype(np.uint8)[..., np.newaxis]
        labels = digits.target.astype(np.uint8)
        cut = len(images) * 4 // 5
        halves = (("train", images[:cut], labels[:cut]), ("test", images[cut:], labels[cut:]))
        version = optional.load("sklearn", "scikit-learn").__version__
        names = tuple(str(name) for name in digits.target_names)
        return Pictures(f"load_digits of scikit-learn {version}", (8, 8, 1), 16, names, iter(halves))


@dataclass(frozen=True)
class Cifar10:
    """The 32 x 32 photographs of CIFAR-10.

    They come from the authors' binary version (their Python version is a pickle, which is never opened), or from an
    `.npz` of JPEG files: `train_jpeg` has the bytes of all files, `train_offsets` their limits, `train_labels` the
    labels, the same for `test`, and `classes` the names.
    """

    archive: PinnedFile
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def open(self, given: Path | None, downloads: Path) -> Pictures:
        """The images of the given file, or of the download."""
        if given is not None and given.suffix == ".npz":
            return self._pictures(f"JPEG copy of CIFAR-10: {given.name}", self._jpegs(given))
        path = require_pinned(given, self.archive) if given else fetch(self.archive, downloads)
        return self._pictures(self.archive.url, self._records(path))

    def _pictures(self, origin: str, batches: Iterator[Labeled]) -> Pictures:
        return Pictures(origin, (32, 32, 3), 255, self.classes, batches)

    def _records(self, path: Path) -> Iterator[Labeled]:
        """Reads the binary version: a record is the label, then the red, green and blue planes, by rows."""
        files = {f"cifar-10-batches-bin/data_batch_{number}.bin": "train" for number in range(1, 6)}
        files["cifar-10-batches-bin/test_batch.bin"] = "test"
        found = dict(tar_members(path, dict.fromkeys(files, RECORDS * 3073)))
        for name, split in files.items():
            records = np.frombuffer(found.pop(name), np.uint8).reshape(RECORDS, 3073)
            planes = records[:, 1:].reshape(-1, 3, 32, 32)
            yield split, np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].copy()

    def _jpegs(self, path: Path) -> Iterator[Labeled]:
        expected = {"classes": "U"}
        for split in ("train", "test"):
            expected |= {f"{split}_jpeg": "u1", f"{split}_offsets": "i8", f"{split}_labels": "u1"}
        arrays = npz_arrays(path, expected, max_bytes=256 << 20)
        if tuple(arrays["classes"].tolist()) != self.classes:
            raise DataError(f"classes, in {path}: expected {', '.join(self.classes)}, got others; use another file")
        for split in ("train", "test"):
            parts = tuple(arrays[f"{split}_{part}"] for part in ("jpeg", "offsets", "labels"))
            yield from ((split, *block) for block in _decode(*parts, where=f"{path}, {split}"))


def _decode(
    content: NDArray[Any], offsets: NDArray[Any], labels: NDArray[Any], where: str
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yields blocks of images and labels from JPEG files of 32 x 32 pixels, which `offsets` delimits."""
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(content) or (np.diff(offsets) <= 0).any():
        raise DataError(f"offsets, in {where}: expected them to rise from 0 to {len(content)}, got others; mend them")
    if len(labels) != len(offsets) - 1:
        raise DataError(f"labels, in {where}: expected one for each image, got {len(labels)}; mend them")
    for first in range(0, len(labels), BLOCK):
        ends = itertools.pairwise(offsets[first : first + BLOCK + 1].tolist())
        images = [
            _jpeg(content[start:stop].tobytes(), f"image {number}, in {where}")
            for number, (start, stop) in enumerate(ends, first)
        ]
        yield np.stack(images), labels[first : first + BLOCK]


def _jpeg(content: bytes, where: str) -> NDArray[Any]:
    """The pixels of a JPEG file. Its header must say 32 x 32 in RGB before it is decoded."""
    image = optional.load("PIL.Image", "mada-optim[lab]")
    try:
        with image.open(io.BytesIO(content), formats=("JPEG",)) as jpeg:
            if jpeg.size != (32, 32) or jpeg.mode != "RGB":
                raise ValueError(f"{jpeg.mode} of {jpeg.size}")
            return np.asarray(jpeg)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{where}: expected a JPEG of 32 x 32 in RGB, got {describe(error)}; mend the file") from error
