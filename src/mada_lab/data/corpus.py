"""A prepared data set, opened: token arrays mapped from disk, after a look at everything that could be wrong."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mada_lab.data import sidecar
from mada_lab.data.sidecar import Sidecar, Split
from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import DataError

# A file up to here is read through once whenever it is opened, which takes less than a second and finds every changed
# byte. A longer one would delay each start: its length is checked, and `verify` reads it when asked. Its ids were in
# range when its digest was taken, as preparation makes each id from a position in the vocabulary.
VERIFIED_AT_OPEN_BYTES = 256 << 20
CHUNK_TOKENS = 1 << 20


@dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared data set.

    Attributes:
        folder: Where it lies.
        meta: What its sidecar says.
        train: Token ids of the training split: shape (tokens,), an unsigned integer type, read-only, on disk.
        val: The same of the validation split.
    """

    folder: Path
    meta: Sidecar
    train: NDArray[Any]
    val: NDArray[Any]

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Opens what `prepare` made.

        Raises:
            DataError: The sidecar is missing or wrong, a file is missing or not of the length in the sidecar, or (up
                to VERIFIED_AT_OPEN_BYTES) its content isn't what was written.
        """
        meta = sidecar.read(folder)
        train, val = (_map(_file(folder, split), meta, meta.splits[split]) for split in sidecar.SPLITS)
        corpus = cls(folder, meta, train, val)
        for split in sidecar.SPLITS:
            if meta.splits[split].bytes <= VERIFIED_AT_OPEN_BYTES:
                corpus.verify(split)
        return corpus

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.meta.name

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids: every id is in [0, vocabulary_size)."""
        return len(self.meta.vocabulary)

    @property
    def sha256(self) -> dict[str, str]:
        """Hexadecimal digest of each split's file, for the manifest of a run."""
        return {name: split.sha256 for name, split in self.meta.splits.items()}

    def encode(self, text: str) -> NDArray[Any]:
        """Token ids of `text`: shape (tokens,). Raises DataError for a character out of the vocabulary."""
        return CharTokenizer(self.meta.vocabulary).encode(text)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Text of token ids in one dimension. Raises DataError for an id out of the vocabulary."""
        return CharTokenizer(self.meta.vocabulary).decode(ids)

    def verify(self, split: str) -> None:
        """Reads every token of a split, `train` or `val`.

        Raises:
            DataError: A token id is out of the vocabulary, or the content isn't what was written.
        """
        tokens = self.train if split == "train" else self.val
        path, digest = _file(self.folder, split), hashlib.sha256()
        for start in range(0, len(tokens), CHUNK_TOKENS):
            chunk = tokens[start : start + CHUNK_TOKENS]
            _check_range(chunk, start, self.vocabulary_size, path)
            digest.update(chunk.data)
        expected, actual = self.sha256[split], digest.hexdigest()
        if actual != expected:
            raise DataError(f"tokens, in {path}: expected sha256 {expected}, got {actual}; {sidecar.REMEDY}")


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}.bin"


def _map(path: Path, meta: Sidecar, split: Split) -> NDArray[Any]:
    """Maps a token file, whose length must be known before: a map that reaches over the end kills the process."""
    try:
        actual = path.stat().st_size
        if actual != split.bytes:
            raise DataError(f"tokens, in {path}: expected {split.bytes} bytes, got {actual}; {sidecar.REMEDY}")
        return np.memmap(path, dtype=meta.token_dtype, mode="r", shape=(split.tokens,))
    except OSError as error:
        raise DataError(
            f"tokens, in {path}: expected a readable file, got {error.strerror}; {sidecar.REMEDY}"
        ) from error


def _check_range(chunk: NDArray[Any], start: int, vocabulary_size: int, path: Path) -> None:
    """Raises DataError for the first id that no embedding has a row for; `start` is the offset of the chunk."""
    if chunk.max() < vocabulary_size:
        return
    at = int(np.argmax(chunk >= vocabulary_size))
    raise DataError(
        f"tokens, in {path}: expected ids in [0, {vocabulary_size}), got {chunk[at]} at offset {start + at}; "
        f"{sidecar.REMEDY}"
    )
