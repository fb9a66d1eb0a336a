"""A prepared data set of images: its sidecar, and its arrays on the disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mada_lab.data import sidecar
from mada_lab.data.corpus import verify_or_watch
from mada_lab.data.disk_array import DiskArray
from mada_lab.data.sidecar import require

SPLITS = ("train", "test")
PARTS = ("images", "labels")
BYTE = np.dtype(np.uint8)
FIXED = {**sidecar.FIXED, "kind": "images", "dtype": "uint8"}


@dataclass(frozen=True)
class ImageSplit:
    """The files of a split, `SPLIT_images.bin` and `SPLIT_labels.bin`."""

    images: int  #: number of images
    images_sha256: str  #: hexadecimal digest of the pixels
    labels_sha256: str  #: hexadecimal digest of the labels


@dataclass(frozen=True)
class ImageSidecar:
    """The description of a folder of images."""

    name: str
    source: str  #: source of the images
    shape: tuple[int, int, int]  #: height, width and channels
    brightest: int  #: the largest value of a pixel
    classes: tuple[str, ...]  #: names by label
    splits: Mapping[str, ImageSplit]  #: by name, `train` and `test`

    def to_json(self) -> str:
        """The text of `meta.json`: ASCII, and the same for the same content."""
        return json.dumps({**FIXED, **asdict(self)}, indent=1) + "\n"


def read(folder: Path) -> ImageSidecar:
    """The checked sidecar in `folder`. Raises DataError if it is missing, isn't JSON, or has a wrong field."""
    fields, path = sidecar.read_json(folder), folder / sidecar.FILE_NAME
    sidecar.require_fixed(fields, path, FIXED)
    shape, brightest, classes, splits = (fields.get(x) for x in ("shape", "brightest", "classes", "splits"))
    good = isinstance(shape, list) and len(shape) == 3 and all(type(x) is int and 0 < x < 1 << 16 for x in shape)
    require(good, path, "shape", "height, width and channels", shape)
    require(type(brightest) is int and 0 < brightest < 256, path, "brightest", "an integer in [1, 255]", brightest)
    good = isinstance(classes, list) and 0 < len(classes) <= 256 and all(isinstance(x, str) for x in classes)
    require(good, path, "classes", "1 to 256 names", classes)
    require(isinstance(splits, dict) and set(splits) == set(SPLITS), path, "splits", " and ".join(SPLITS), splits)
    found = {name: sidecar.parse_split(ImageSplit, splits[name], path, f"splits.{name}") for name in SPLITS}
    return ImageSidecar(fields["name"], fields["source"], tuple(shape), brightest, tuple(classes), found)


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """A split."""

    images: DiskArray  #: uint8 of shape (n, height, width, channels)
    labels: DiskArray  #: uint8 of shape (n,), each the number of a class

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A prepared data set of images."""

    folder: Path
    meta: ImageSidecar
    train: LabeledImages
    test: LabeledImages

    @classmethod
    def open(cls, folder: Path) -> "ImageData":
        """Opens a folder that `prepare` made. Raises DataError as `Corpus.open`."""
        meta = read(folder)
        train, test = (_open_split(folder, meta, split) for split in SPLITS)
        return cls(folder, meta, train, test)

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.meta.name

    @property
    def sha256(self) -> dict[str, str]:
        """Hexadecimal digest of each file, for the manifest of a run."""
        splits = self.meta.splits.items()
        return {f"{name}_{part}": getattr(split, f"{part}_sha256") for name, split in splits for part in PARTS}


def _open_split(folder: Path, meta: ImageSidecar, name: str) -> LabeledImages:
    split = meta.splits[name]
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        "images": ((split.images, *meta.shape), meta.brightest + 1),
        "labels": ((split.images,), len(meta.classes)),
    }
    arrays = {part: DiskArray(folder / f"{name}_{part}.bin", BYTE, *x, sidecar.REMEDY) for part, x in shapes.items()}
    for part, array in arrays.items():
        verify_or_watch(array, getattr(split, f"{part}_sha256"))
    return LabeledImages(**arrays)
