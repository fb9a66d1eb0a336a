"""Text to token ids and back, one token per character."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mada_lab.errors import DataError


@dataclass(frozen=True)
class CharTokenizer:
    """Each character of the vocabulary is a token, and its position there is its id.

    Attributes:
        vocabulary: The characters in the order of their code points, each once.
    """

    vocabulary: str

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """The tokenizer with the characters of `text`."""
        return cls("".join(sorted(set(text))))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integer that holds every id, little-endian: uint8 up to 256 characters."""
        return np.min_scalar_type(len(self.vocabulary) - 1).newbyteorder("<")

    def encode(self, text: str) -> NDArray[Any]:
        """The ids of the characters of `text`: shape (len(text),), dtype `self.dtype`.

        Raises:
            DataError: A character isn't in the vocabulary.
        """
        known, points = code_points(self.vocabulary), code_points(text)
        ids = np.searchsorted(known, points).clip(max=len(known) - 1)
        strange = np.flatnonzero(known[ids] != points)
        if strange.size:
            at = int(strange[0])
            raise DataError(
                f"text, at character {at}: expected characters of the vocabulary, got {text[at]!r}; "
                "remove it, or use the data set that the model was trained on"
            )
        return ids.astype(self.dtype)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text whose ids these are, given in one dimension.

        Raises:
            DataError: An id isn't in [0, len(vocabulary)).
        """
        ids = np.asarray(ids, dtype=np.int64)
        strange = np.flatnonzero((ids < 0) | (ids >= len(self.vocabulary)))
        if strange.size:
            at = int(strange[0])
            raise DataError(
                f"token, at offset {at}: expected an id in [0, {len(self.vocabulary)}), got {ids[at]}; "
                "use the data set that the model was trained on"
            )
        points: bytes = code_points(self.vocabulary)[ids].tobytes()
        return points.decode("utf-32-le", "surrogatepass")


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of `text`: shape (len(text),); lone surrogates pass, for the caller to find them unknown."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
