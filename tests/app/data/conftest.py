"""Small data sets, and a tokenizer of GPT-2's kind with 262 tokens, so that no test needs the network."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.data import catalog, gpt2
from mada_lab.data.catalog import TextSet
from mada_lab.data.cuts import last_tenth
from mada_lab.data.download import PinnedFile
from mada_lab.data.gpt2 import Gpt2Tokenizer
from mada_lab.data.prepare import prepare
from mada_lab.data.sources import TextFile

TINY = "To be, or not to be: that is the question.\n" * 2
MERGED = ("th", "the", "\u0120the", "\u0120\u0120", "\u010a\u010a")  # U+0120 is the space, U+010A the line feed
END = 256 + len(MERGED)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pinned(content: bytes, name: str = "input.txt") -> PinnedFile:
    return PinnedFile(f"https://example.org/{name}", digest(content), len(content))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], Path]:
    """Prepares a text as the data set `tiny`, by characters."""

    def prepare_text(text: str | bytes) -> Path:
        content = text.encode() if isinstance(text, str) else text
        (tmp_path / "input.txt").write_bytes(content)
        entry = TextSet(source=TextFile(pinned(content)), tokenizers=("char", "gpt2"), cut=last_tenth)
        monkeypatch.setitem(catalog.DATA_SETS, "tiny", entry)
        return prepare("tiny", tmp_path / "data", from_file=tmp_path / "input.txt")

    return prepare_text


@pytest.fixture
def tiny_set(make: Callable[[str | bytes], Path]) -> Path:
    return make(TINY)


@pytest.fixture
def toy_bpe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for --bpe-files with all bytes, three merges and the end of text, which the code takes for GPT-2's."""
    folder = tmp_path / "bpe"
    folder.mkdir()
    visible = [byte for byte in range(256) if chr(byte).isprintable() and byte != 32]
    stands = {byte: chr(byte) for byte in visible}
    stands |= {byte: chr(256 + i) for i, byte in enumerate(x for x in range(256) if x not in stands)}
    tokens = {stands[byte]: i for i, byte in enumerate([*visible, *(x for x in range(256) if x not in visible)])}
    tokens |= {merged: 256 + i for i, merged in enumerate(MERGED)} | {gpt2.END_OF_TEXT: END}
    encoder, merges = json.dumps(tokens).encode(), b"t h\nth e\n"
    (folder / "encoder.json").write_bytes(encoder)
    (folder / "vocab.bpe").write_bytes(merges)
    for name, content in (("ENCODER", encoder), ("MERGES", merges)):
        real = getattr(gpt2, name)
        monkeypatch.setattr(gpt2, name, replace(real, sha256=digest(content), bytes=len(content)))
    monkeypatch.setattr(gpt2, "VOCABULARY_SIZE", END + 1)
    return folder


@pytest.fixture
def toy(toy_bpe: Path) -> Gpt2Tokenizer:
    return Gpt2Tokenizer((toy_bpe / "encoder.json").read_bytes())


@pytest.fixture
def real_gpt2(reference: Path) -> Gpt2Tokenizer:
    """GPT-2's own tokenizer, where the reference material is beside the checkout."""
    return Gpt2Tokenizer(gpt2.find_encoder(reference / "data" / "gpt2_bpe", Path()))
