"""GPT-2's byte-pair encoding, by tiktoken, with OpenAI's vocabulary.

tiktoken itself would download the vocabulary without a time limit. Here it comes from the user, from tiktoken's cache,
or through `download`; each data set keeps a copy.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mada_lab.data.download import PinnedFile, fetch, read_pinned
from mada_lab.data.tokenizer import checked, id_dtype, lone_surrogate
from mada_lab.errors import DataError
from mada_lab.system import optional

REMEDY = "set TIKTOKEN_CACHE_DIR, or give a folder with encoder.json and vocab.bpe: --bpe-files DIR"
ENCODER = PinnedFile(
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json",
    sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    bytes=1_042_301,
    remedy=REMEDY,
)
#: The merges in order. The ids in `ENCODER` have the same order, so this file is only checked.
MERGES = PinnedFile(
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    bytes=456_318,
    remedy=REMEDY,
)
VOCABULARY_SIZE = 50_257
SMALL_VOCABULARY = 2048  # for networks that a CPU trains: the bytes, the first merges, and the end of text
END_OF_TEXT = "<|endoftext|>"


#: Number of ids by the name of a choice; None is all.
SIZES: dict[str, int | None] = {"gpt2": None, "gpt2_small": SMALL_VOCABULARY}


class Gpt2Tokenizer:
    """GPT-2's 50,257 tokens, merged from bytes of UTF-8. Any text can be encoded; none becomes a control token."""

    name = "gpt2"

    def __init__(self, encoder_json: bytes, size: int | None = None) -> None:
        """Builds the tokenizer.

        Args:
            encoder_json: Content of the file `ENCODER`, also an attribute.
            size: A smaller number of ids: the bytes, the first merges of GPT-2, and the end of text.

        Raises:
            DataError: tiktoken isn't installed.
        """
        tiktoken = optional.load("tiktoken", "mada-optim[lab]")
        pattern = optional.load("tiktoken_ext.openai_public", "mada-optim[lab]").r50k_pat_str
        self.encoder_json, self.vocabulary_size = encoder_json, size or VOCABULARY_SIZE
        names = json.loads(encoder_json)
        last = int(names.pop(END_OF_TEXT))
        self.end_of_text = last if size is None else min(last, size - 1)
        names = {name: id_ for name, id_ in names.items() if id_ < self.end_of_text}
        byte_of = {character: byte for byte, character in enumerate(_printable())}
        ranks = {bytes(byte_of[character] for character in name): id_ for name, id_ in names.items()}
        self._dtype = id_dtype(self.vocabulary_size)
        self.encoding = tiktoken.Encoding(
            self.name,
            pat_str=pattern,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: self.end_of_text},
            explicit_n_vocab=self.vocabulary_size,
        )

    def encode(self, text: str) -> NDArray[Any]:
        """The ids of `text`: uint16 of shape (tokens,). Raises DataError for a lone surrogate, which is no character.

        Other threads may run meanwhile.
        """
        try:
            ids: NDArray[Any] = self.encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError as error:
            raise lone_surrogate(error, "text") from error
        return ids.astype(self._dtype)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text of ids in one dimension. Raises DataError for one that isn't in [0, vocabulary_size).

        Bytes that aren't UTF-8 become U+FFFD.
        """
        text: str = self.encoding.decode(checked(ids, self.vocabulary_size).tolist())
        return text


def find_encoder(bpe_files: Path | None, downloads: Path) -> bytes:
    """The content of `ENCODER`.

    Args:
        bpe_files: A folder that holds it and `MERGES`; None for tiktoken's cache, or else the network.
        downloads: Where to download to.

    Raises:
        DataError: It is missing, can't be downloaded, or has another digest.
    """
    if bpe_files is not None:
        content, _ = (read_pinned(bpe_files / file.name, file) for file in (ENCODER, MERGES))
        return content
    for path in _cached():
        try:
            return read_pinned(path, ENCODER)
        except DataError:
            continue
    return read_pinned(fetch(ENCODER, downloads), ENCODER)


def _cached() -> Iterator[Path]:
    """Paths of the file in tiktoken's caches, in its order."""
    name = hashlib.sha1(ENCODER.url.encode(), usedforsecurity=False).hexdigest()
    folders = [os.environ.get("TIKTOKEN_CACHE_DIR"), os.environ.get("DATA_GYM_CACHE_DIR")]
    for folder in (*folders, Path(tempfile.gettempdir(), "data-gym-cache")):
        if folder:
            yield Path(folder, name)


def _printable() -> str:
    """The character for each byte in `ENCODER`: the byte's own if visible, else one from U+0100 on."""
    visible = [chr(byte).isprintable() and chr(byte) != " " for byte in range(256)]
    others = iter(range(256, 512))
    return "".join(chr(byte) if visible[byte] else chr(next(others)) for byte in range(256))
