"""From documents to token ids: cut into pieces, encoded by a pool of threads, handed back in order.

tiktoken lets other threads run while it encodes, so threads share what processes would have to copy. At any time a few
batches of pieces are in the pool and none beside it: a reader that is faster than the encoding waits.
"""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mada_lab.data.sources import Stream
from mada_lab.data.tokenizer import Tokenizer, id_dtype

PIECE_CHARACTERS = 1 << 16
# Between a character that is no white space and a space or a line feed, GPT-2's encoding always ends a token, and looks
# no further: cut there, a text gives the ids that it gives in one piece.
BOUNDARY = re.compile(r"(?<=\S)[ \n]")


@dataclass(frozen=True)
class Piece:
    """A stretch of a document.

    Attributes:
        split: Name of the split that the document belongs to.
        text: At least a character.
        ends: Whether it's the last of its document.
    """

    split: str
    text: str
    ends: bool


@dataclass(frozen=True)
class Encoded:
    """Token ids of some pieces of one split: shape (tokens,)."""

    split: str
    ids: NDArray[Any]
    characters: int


def pieces(stream: Stream, size: int = PIECE_CHARACTERS) -> Iterator[Piece]:
    """Cuts documents at the first place after each `size` characters. Empty documents leave nothing."""
    for split, parts in stream:
        held, searched = "", 0
        for part in parts:
            held += part
            start = 0
            while found := BOUNDARY.search(held, max(start + size, searched)):
                yield Piece(split, held[start : found.start()], False)
                start = found.start()
            searched = max(len(held) - start - 1, 0)
            held = held[start:]
        if held:
            yield Piece(split, held, True)


def batches(found: Iterable[Piece], size: int = PIECE_CHARACTERS) -> Iterator[list[Piece]]:
    """Gathers pieces of one split until they have `size` characters, so that short documents don't cost a task each."""
    held: list[Piece] = []
    length = 0
    for piece in found:
        if held and (length >= size or piece.split != held[0].split):
            yield held
            held, length = [], 0
        held.append(piece)
        length += len(piece.text)
    if held:
        yield held


def encode(
    found: Iterable[Piece], tokenizer: Tokenizer, end_of_text: bool, workers: int | None = None
) -> Iterator[Encoded]:
    """Encodes pieces, in their order.

    Args:
        found: The pieces; taken only as fast as they are encoded.
        tokenizer: Encodes them.
        end_of_text: Whether each document is followed by the tokenizer's end-of-text token.
        workers: Threads; None is one for each CPU that this process may use.

    Raises:
        DataError: A text can't be encoded.
    """
    workers = workers or _cpus()
    end = [tokenizer.end_of_text] if end_of_text and tokenizer.end_of_text is not None else []
    stop = np.array(end, id_dtype(tokenizer.vocabulary_size))
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[Encoded]]()
    try:
        for batch in batches(found):
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_encode, batch, tokenizer, stop))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(batch: list[Piece], tokenizer: Tokenizer, stop: NDArray[Any]) -> Encoded:
    ids = []
    for piece in batch:
        ids.append(tokenizer.encode(piece.text))
        if piece.ends:
            ids.append(stop)
    return Encoded(batch[0].split, np.concatenate(ids), sum(len(piece.text) for piece in batch))


def _cpus() -> int:
    """CPUs that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
