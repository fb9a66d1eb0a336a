"""The pipeline: cutting never changes the ids, the order stays, and a fast reader waits.

Catches: a cut inside a token, a missing or doubled end-of-text token, batches that overtake each other, a queue that
grows with the text, a worker's error that gets lost.
"""

import threading
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mada_lab.data import pipeline
from mada_lab.data.gpt2 import Gpt2Tokenizer
from mada_lab.data.pipeline import Piece, batches, encode, pieces
from mada_lab.data.sources import Stream
from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import DataError

# White space of all kinds and in runs, contractions, digits, letters of one, two, three and four bytes, punctuation.
FRAGMENTS = [
    *" \n\t\r\x0b\x1c\x1f\x85\xa0\u2003\u2028\u3000'19aZé漢\U0001f600.,<|>\0\ufeff",
    "\n\n\n",
    "   ",
    "'re",
    "the",
]
ODD = ["<|endoftext|>", "don't 've it'", "a  b\n\n c \n", "\ufeffa\r\nb\0", " " * 50 + "x", "\n" * 50, "1234567 89"]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join) | st.text(
    st.characters(codec="utf-8"), max_size=40
)


def stream(*documents: str, split: str = "train") -> Stream:
    return iter([(split, [text]) for text in documents])


def ids(found: Stream, tokenizer: Gpt2Tokenizer, size: int, end_of_text: bool = False) -> list[int]:
    encoded = encode(pieces(found, size), tokenizer, end_of_text, workers=2)
    return [int(x) for part in encoded for x in part.ids]


def check_cutting(tokenizer: Gpt2Tokenizer, text: str, size: int, part: int) -> None:
    whole = tokenizer.encode(text).tolist()
    parts = [text[at : at + part] for at in range(0, len(text), part)]
    found = list(pieces(iter([("train", parts)]), size))
    assert "".join(piece.text for piece in found) == text
    assert [x for piece in found for x in tokenizer.encode(piece.text).tolist()] == whole


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXTS,
    size=st.integers(1, 9),
    part=st.integers(1, 70),
)
def test_cutting_changes_no_id(toy: Gpt2Tokenizer, text: str, size: int, part: int) -> None:
    check_cutting(toy, text, size, part)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXTS,
    size=st.integers(1, 9),
    part=st.integers(1, 70),
)
def test_cutting_changes_no_id_of_gpt2(real_gpt2: Gpt2Tokenizer, text: str, size: int, part: int) -> None:
    check_cutting(real_gpt2, text, size, part)


def test_pieces_are_as_long_as_asked() -> None:
    found = list(pieces(stream("word " * 1000, "short"), 100))
    assert max(len(piece.text) for piece in found) <= 105
    assert [piece.ends for piece in found] == [False] * (len(found) - 2) + [True, True]


def test_text_without_a_place_to_cut_stays_whole() -> None:
    text = "x" * 5000
    found = list(pieces(iter([("train", [text[at : at + 7] for at in range(0, 5000, 7)])]), 100))
    assert [piece.text for piece in found] == [text]


def test_documents_end_in_the_token_that_no_text_has(toy: Gpt2Tokenizer) -> None:
    """Empty documents leave nothing, not even that token."""
    documents = ["one", "", "two <|endoftext|>", "three" * 40]
    expected = []
    for text in documents:
        expected += [*toy.encode(text).tolist(), toy.end_of_text] if text else []
    for size in (1, 5, 1000):
        assert ids(stream(*documents), toy, size, end_of_text=True) == expected
    assert toy.end_of_text not in ids(stream(*documents), toy, 5)


def test_batches_hold_one_split_and_have_the_size() -> None:
    found = [Piece("train", "abc", True)] * 7 + [Piece("val", "abc", True)] + [Piece("train", "abc", True)]
    groups = list(batches(found, 6))
    assert [len(group) for group in groups] == [2, 2, 2, 1, 1, 1]
    assert [piece for group in groups for piece in group] == found


class Late:
    """Takes longer for what comes earlier, and counts how many it has encoded."""

    name, vocabulary_size, end_of_text = "late", 256, None

    def __init__(self) -> None:
        self.done = 0
        self.lock = threading.Lock()

    def encode(self, text: str) -> np.ndarray:
        time.sleep(0.02 if ord(text[0]) % 2 else 0.001)
        with self.lock:
            self.done += 1
        return np.array([ord(text[0])], np.uint8)


def test_order_is_that_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "batches", lambda found: ([piece] for piece in found))
    found = [Piece("train", chr(i), True) for i in range(60)]
    parts = encode(found, Late(), False, workers=4)  # type: ignore[arg-type]
    assert [int(part.ids[0]) for part in parts] == list(range(60))


def test_reader_waits_for_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two workers, four batches are in the pool, and one is on its way in."""
    monkeypatch.setattr(pipeline, "batches", lambda found: ([piece] for piece in found))
    tokenizer, read = Late(), 0

    def reader() -> Iterator[Piece]:
        nonlocal read
        for i in range(40):
            read += 1
            assert read - tokenizer.done <= 6
            yield Piece("train", chr(i), True)

    written = 0
    for _ in encode(reader(), tokenizer, False, workers=2):  # type: ignore[arg-type]
        written += 1
        assert read - written <= 5, "what isn't written yet must not pile up"
    assert read == written == 40


def test_memory_stays_bounded() -> None:
    text = "To be, or not to be: that is the question.\n" * 2500
    tokenizer = CharTokenizer.of([text])
    tracemalloc.start()
    total = sum(part.characters for part in encode(pieces(stream(*[text] * 200)), tokenizer, False, workers=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 200 * len(text) > 20_000_000
    assert peak < 8_000_000


def test_error_of_a_worker_arrives_and_the_pool_ends() -> None:
    before = threading.active_count()
    known = CharTokenizer("ab")
    with pytest.raises(DataError, match="got 'c'"):
        list(encode(pieces(stream("ab", "abc", "ab"), 1), known, False, workers=2))
    assert threading.active_count() == before


def test_error_of_the_reader_arrives_and_the_pool_ends() -> None:
    def failing() -> Iterator[Piece]:
        yield Piece("train", "a" * 70_000, True)
        yield Piece("train", "a" * 70_000, True)
        raise DataError("no more")

    before = threading.active_count()
    with pytest.raises(DataError, match="no more"):
        list(encode(failing(), CharTokenizer("a"), False, workers=2))
    assert threading.active_count() == before


@pytest.mark.parametrize("text", ODD)
def test_number_of_workers_changes_nothing(toy: Gpt2Tokenizer, text: str) -> None:
    def run(workers: int) -> list[int]:
        encoded = encode(pieces(stream(text * 50, text), 9), toy, True, workers)
        return [int(x) for part in encoded for x in part.ids]

    assert run(1) == run(3)
