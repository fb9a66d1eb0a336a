"""A prepared text data set. Its files are checked when it is opened; tokens stay on the disk."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mada_lab.data import gpt2, sidecar
from mada_lab.data.disk_array import DiskArray
from mada_lab.data.download import read_pinned
from mada_lab.data.gpt2 import Gpt2Tokenizer
from mada_lab.data.sidecar import Sidecar
from mada_lab.data.tokenizer import CharTokenizer, Tokenizer
from mada_lab.errors import DataError

# Up to this length, the whole file is checked when it is opened, in less than a second. A longer file is checked in the
# background; once damage is found, the next read raises.
VERIFIED_AT_OPEN_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared text data set."""

    folder: Path
    meta: Sidecar
    splits: Mapping[str, DiskArray]  #: token ids by split: shape (tokens,), an unsigned integer type, on the disk

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Opens a folder that `prepare` made.

        Raises:
            DataError: The sidecar is missing or wrong; a file is missing, of another length, or (up to
                VERIFIED_AT_OPEN_BYTES) of other content.
        """
        meta = sidecar.read(folder)
        size, dtype = meta.vocabulary.size, meta.token_dtype
        splits = {
            name: DiskArray(folder / f"{name}.bin", dtype, (split.tokens,), size, sidecar.REMEDY)
            for name, split in meta.splits.items()
        }
        corpus = cls(folder, meta, splits)
        for name, tokens in splits.items():
            verify_or_watch(tokens, meta.splits[name].sha256)
        return corpus

    @property
    def train(self) -> DiskArray:
        """The training split. Raises DataError if there is none."""
        return self.split("train")

    @property
    def val(self) -> DiskArray:
        """The validation split. Raises DataError if there is none."""
        return self.split("val")

    def split(self, name: str) -> DiskArray:
        """A split by name: train, val or test. Raises DataError if the data set doesn't have it."""
        if name not in self.splits:
            raise DataError(
                f"data set, in {self.folder}: expected a split {name}, got only {', '.join(self.splits)}; "
                "choose a data set that has it"
            )
        return self.splits[name]

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.meta.name

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids: every id is in [0, vocabulary_size)."""
        return self.meta.vocabulary.size

    @property
    def sha256(self) -> dict[str, str]:
        """Hexadecimal digest of each split's file, for the manifest of a run."""
        return {name: split.sha256 for name, split in self.meta.splits.items()}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises DataError if its file is missing or damaged, or its package isn't installed."""
        characters = self.meta.vocabulary.characters
        if characters is not None:
            return CharTokenizer(characters)
        file = replace(gpt2.ENCODER, remedy=sidecar.REMEDY)
        return Gpt2Tokenizer(read_pinned(self.folder / file.name, file), self.meta.vocabulary.size)

    def encode(self, text: str) -> NDArray[Any]:
        """Token ids of `text`: shape (tokens,). Raises DataError for a character out of a vocabulary of characters."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Text of token ids in one dimension. Raises DataError for an id out of the vocabulary."""
        return self.tokenizer.decode(ids)

    def verify(self, split: str) -> None:
        """Reads every token of a split. Raises DataError for an id out of the vocabulary, or for changed content."""
        verify(self.split(split), self.sha256[split])


def verify(array: DiskArray, sha256: str) -> None:
    """Reads the whole file. Raises DataError for a number out of range, or for content with another digest."""
    digest = hashlib.sha256()
    for chunk in array.chunks():
        digest.update(chunk.data)
    if digest.hexdigest() != sha256:
        raise DataError(f"data, in {array.path}: expected sha256 {sha256}, got {digest.hexdigest()}; {sidecar.REMEDY}")


def verify_or_watch(array: DiskArray, sha256: str) -> threading.Thread | None:
    """Verifies a file: at once, or a long one in a thread, which sets `array.fault`; then returns the thread."""
    if array.nbytes <= VERIFIED_AT_OPEN_BYTES:
        verify(array, sha256)
        return None

    def watch() -> None:
        try:
            verify(array, sha256)
        except DataError as error:
            array.fault = error

    thread = threading.Thread(target=watch, name=f"verify {array.path.name}", daemon=True)
    thread.start()
    return thread
