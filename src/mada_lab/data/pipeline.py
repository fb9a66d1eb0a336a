"""From documents to token ids: cuts documents into pieces, encodes them in a pool of threads, and keeps their order.

tiktoken releases the interpreter lock, so threads are enough. Only a few batches are held at a time: a reader that is
faster than the encoding waits.
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
# GPT-2's encoding always ends a token between a word and the next space or line feed, so cuts there keep the ids.
BOUNDARY = re.compile(r"(?<=\S)[ \n]")


@dataclass(frozen=True)
class Piece:
    """A part of a document."""

    split: str
    text: str  #: at least one character
    ends: bool  #: whether it is the last part of the document


@dataclass(frozen=True)
class Encoded:
    """Token ids of some pieces of one split: shape (tokens,)."""

    split: str
    ids: NDArray[Any]
    characters: int


def pieces(stream: Stream, size: int = PIECE_CHARACTERS) -> Iterator[Piece]:
    """Cuts documents at the first boundary after each `size` characters. Empty documents give no piece."""
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
    """Groups pieces of one split to `size` characters, so that short documents share a task."""
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
        found: The pieces, read only as fast as they are encoded.
        tokenizer: Encodes them.
        end_of_text: Whether the tokenizer's end-of-text token follows each document.
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
