"""Text as it comes: every character is kept as it stands, or the file is refused with its place.

Catches: a text that is mended in silence, a control token out of a text, a memory that grows with a line.
"""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mada_lab.data import readers
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import prepare
from mada_lab.data.readers import text_parts
from mada_lab.errors import DataError
from tests.app.data.conftest import END, digest

KEPT = {
    "two characters": "ab",
    "carriage returns, nul, byte order mark inside": "a\r\nb\0\ufeffc\r",
    "byte order mark first": "\ufeffx",
    "special token": "x<|endoftext|>y<|endoftext|>",
    "four bytes and two": "\U0001f600é" * 5,
    "white space alone": " \n\t \x0b\x0c\x1c\x85\xa0\u2028 ",
    "not normal": "e\u0301 \u00e9 \u212b",
    "noncharacters": "\uffff\ufdd0\U0010ffff",
    "long line": "word " * 50_000,
    "long word": "x" * 200_000,
}
REFUSED = {
    "empty": (b"", "expected enough characters for training and validation text, got 0"),
    "one character": (b"x", "expected enough characters for training and validation text, got 1"),
    "broken": (b"abc\xff", "expected UTF-8, got the byte 0xff at offset 3"),
    "cut in a character": (b"abc\xe2\x82", "expected UTF-8, got the byte 0xe2 at offset 3"),
    "overlong": (b"ab\xc0\xaf", "expected UTF-8, got the byte 0xc0 at offset 2"),
    "surrogate": (b"\xed\xa0\x80xx", "expected UTF-8, got the byte 0xed at offset 0"),
    "UTF-16": ("ab".encode("utf-16"), "expected UTF-8, got the byte 0xff at offset 0"),
    "latin": ("déjà vu".encode("latin-1"), "expected UTF-8, got the byte 0xe9 at offset 1"),
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_text_is_kept_as_it_stands(make: Callable[[str | bytes], Path], toy_bpe: Path, text: str) -> None:
    folder = make(text)
    pairs = prepare("tiny", folder.parent, folder.parents[1] / "input.txt", tokenizer="gpt2", bpe_files=toy_bpe)
    for opened in (Corpus.open(folder), Corpus.open(pairs)):
        cut = len(text) * 9 // 10
        assert opened.decode(opened.train) == text[:cut]
        assert opened.decode(opened.val) == text[cut:]
        assert opened.meta.source_sha256 == digest(text.encode())
    assert END not in np.fromfile(pairs / "train.bin", "<u2")


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_text_that_is_none_changes_nothing(
    make: Callable[[str | bytes], Path], tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make(content)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_files_of_the_user_are_held_to_the_same(toy_bpe: Path, tmp_path: Path, content: bytes, message: str) -> None:
    """A later file of several: what was written of the earlier ones goes."""
    (tmp_path / "train.txt").write_text("a good text " * 10_000)
    (tmp_path / "valid.txt").write_text("another")
    (tmp_path / "test.txt").write_bytes(content)
    if content == b"x":
        return  # one character is a text to test on, if a short one
    if content == b"":
        message = "expected some for split test, got none"
    given = tmp_path / "test.txt"
    with pytest.raises(DataError, match=message):
        prepare("wikitext", tmp_path / "data", tmp_path, bpe_files=toy_bpe)
    assert not (tmp_path / "data").exists()
    assert given.read_bytes() == content


@pytest.mark.parametrize("block", [1, 2, 3, 5])
def test_character_may_lie_across_blocks(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    text = "aé漢\U0001f600\r\n"
    (tmp_path / "x.txt").write_bytes(text.encode())
    parts = list(text_parts(tmp_path / "x.txt"))
    assert "".join(parts) == text
    assert all(parts)
    for at in range(len(text.encode())):
        content = text.encode()[:at] + b"\xff"
        (tmp_path / "x.txt").write_bytes(content)
        offset = len(content.decode(errors="ignore").encode())  # a character that was begun is what is wrong
        with pytest.raises(DataError, match=f"got the byte {content[offset]:#04x} at offset {offset};"):
            list(text_parts(tmp_path / "x.txt"))


def test_lone_surrogate_out_of_json_is_refused(toy_bpe: Path, tmp_path: Path) -> None:
    """JSON can spell what UTF-8 can't."""
    (tmp_path / "x.jsonl").write_text('{"text": "good"}\n{"text": "a\\ud800b"}\n')
    with pytest.raises(DataError, match=r"in piece 2, at character 1: expected characters, got the lone surrogate"):
        prepare("lambada", tmp_path / "data", tmp_path / "x.jsonl", bpe_files=toy_bpe)
    assert not (tmp_path / "data").exists()


def test_empty_documents_leave_nothing(toy_bpe: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": ""}\n{"text": "a"}\n\n{"text": ""}\n{"text": "b"}\n')
    opened = Corpus.open(prepare("lambada", tmp_path / "data", tmp_path / "x.jsonl", bpe_files=toy_bpe))
    assert opened.decode(opened.split("test")) == "a<|endoftext|>b<|endoftext|>"
    (tmp_path / "x.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(DataError, match="expected some for split test, got none"):
        prepare("lambada", tmp_path / "other", tmp_path / "x.jsonl", bpe_files=toy_bpe)
    assert not (tmp_path / "other").exists()


def test_one_line_of_many_megabytes_needs_little_memory(toy_bpe: Path, tmp_path: Path) -> None:
    """48 MB in one line, in a process whose memory is counted: a copy as a string alone would be 48 MB more."""
    program = """
        import resource, sys
        from pathlib import Path
        from mada_lab.data import gpt2, pipeline, readers
        tokenizer = gpt2.Gpt2Tokenizer(Path(sys.argv[1]).read_bytes())
        def run(path):
            found = pipeline.pieces((("train", document) for document in readers.documents(Path(path))))
            return sum(len(part.ids) for part in pipeline.encode(found, tokenizer, False, 2))
        run(sys.argv[2])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(run(sys.argv[3]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    program = textwrap.dedent(program).replace("gpt2.Gpt2Tokenizer", "toy")
    head = "from mada_lab.data import gpt2; gpt2.VOCABULARY_SIZE = 262; toy = gpt2.Gpt2Tokenizer\n"
    (tmp_path / "short.txt").write_text("to be or not to be " * 100_000)
    (tmp_path / "long.txt").write_text("to be or not to be " * 2_500_000)
    files = [toy_bpe / "encoder.json", tmp_path / "short.txt", tmp_path / "long.txt"]
    command = [sys.executable, "-c", head + program, *map(str, files)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    tokens, more = map(int, run.stdout.split())
    assert tokens == 19 * 2_500_000
    assert more * (1 if sys.platform == "darwin" else 1024) < 20e6
