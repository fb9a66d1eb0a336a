"""Text to token ids and back, with one token per character; `gpt2.py` has GPT-2's byte pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mada_lab.errors import DataError


class Tokenizer(Protocol):
    """Encodes and decodes text. Every id is in [0, vocabulary_size)."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def vocabulary_size(self) -> int:
        """Number of ids."""

    @property
    def end_of_text(self) -> int | None:
        """The id after each document, which no text is encoded to; None if there is none."""

    def encode(self, text: str) -> NDArray[Any]:
        """The ids of `text`: one dimension, of type `id_dtype(vocabulary_size)`.

        A text that is cut before the first space or line feed after a word has the same ids as in one piece.
        """

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text whose ids these are, given in one dimension."""


def id_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest unsigned integer that holds every id, little-endian: uint8 up to 256 ids, uint16 up to 65,536."""
    return np.min_scalar_type(vocabulary_size - 1).newbyteorder("<")


@dataclass(frozen=True)
class CharTokenizer:
    """Each character of the vocabulary is a token, and its position there is its id."""

    vocabulary: str  #: the characters in the order of their code points, each once
    name = "char"
    end_of_text = None

    @classmethod
    def of(cls, texts: Iterable[str]) -> "CharTokenizer":
        """The tokenizer with the characters of all `texts`."""
        found: set[str] = set()
        for text in texts:
            found.update(text)
        return cls("".join(sorted(found)))

    @property
    def vocabulary_size(self) -> int:
        """Number of characters."""
        return len(self.vocabulary)

    def encode(self, text: str) -> NDArray[Any]:
        """The ids of the characters: shape (len(text),). Raises DataError for one that isn't in the vocabulary."""
        known, points = code_points(self.vocabulary), code_points(text)
        ids = np.searchsorted(known, points).clip(max=len(known) - 1)
        strange = np.flatnonzero(known[ids] != points)
        if strange.size:
            at = int(strange[0])
            raise DataError(
                f"text, at character {at}: expected characters of the vocabulary, got {text[at]!r}; "
                "remove it, or use the data set that the model was trained on"
            )
        return ids.astype(id_dtype(self.vocabulary_size))

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text of ids in one dimension. Raises DataError for one that isn't in [0, vocabulary_size)."""
        points: bytes = code_points(self.vocabulary)[checked(ids, self.vocabulary_size)].tobytes()
        return points.decode("utf-32-le", "surrogatepass")


def checked(ids: Sequence[int] | NDArray[Any], vocabulary_size: int) -> NDArray[np.int64]:
    """`ids` as an array. Raises DataError for the first that isn't in [0, vocabulary_size)."""
    ids = np.asarray(ids, dtype=np.int64)
    strange = np.flatnonzero((ids < 0) | (ids >= vocabulary_size))
    if strange.size:
        at = int(strange[0])
        raise DataError(
            f"token, at offset {at}: expected an id in [0, {vocabulary_size}), got {ids[at]}; "
            "use the data set that the model was trained on"
        )
    return ids


def lone_surrogate(error: UnicodeEncodeError, what: str) -> DataError:
    """The error for a text that can't be written as UTF-8."""
    return DataError(
        f"{what}, at character {error.start}: expected characters, got the lone surrogate "
        f"{error.object[error.start]!a}; remove it"
    )


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of `text`: shape (len(text),); lone surrogates pass, for the caller to find them unknown."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
