"""Preparing and opening data sets: the same bytes each time, and no damage goes unseen."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

from mada_lab.data import corpora, corpus, download
from mada_lab.data.corpora import DownloadedText
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import prepare
from mada_lab.errors import ConfigError, DataError

TINY = "To be, or not to be: that is the question.\n" * 2
TINYSHAKESPEARE = Path(__file__).parents[2].parent / "shared" / "data" / "tinyshakespeare" / "input.txt"
FILES = ("train.bin", "val.bin", "meta.json")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], Path]:
    """Prepares a text as the data set `tiny`."""

    def prepare_text(text: str | bytes) -> Path:
        content = text.encode() if isinstance(text, str) else text
        (tmp_path / "input.txt").write_bytes(content)
        source = DownloadedText("tiny", "https://example.org/tiny", digest(content), len(content))
        monkeypatch.setitem(corpora.CORPORA, "tiny", source)
        return prepare("tiny", tmp_path / "data", from_file=tmp_path / "input.txt")

    return prepare_text


@pytest.fixture
def tiny(make: Callable[[str | bytes], Path]) -> Path:
    return make(TINY)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Applies `change` to the sidecar."""
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


# ---- prepare ----


def test_pydoc_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (prepare("pydoc", tmp_path / run) for run in ("a", "b"))
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert sorted(path.name for path in first.iterdir()) == sorted(FILES)


def test_pydoc_is_the_prose_of_this_python(tmp_path: Path) -> None:
    opened = Corpus.open(prepare("pydoc", tmp_path))
    text = opened.decode(opened.train) + opened.decode(opened.val)
    assert text == "\n\n".join(topics[key] for key in sorted(topics))
    assert len(text) > 300_000
    assert opened.meta.source_sha256 == digest(text.encode())
    assert opened.meta.source.startswith("pydoc_data.topics of CPython 3.")


def test_text_survives_the_round_trip(tiny: Path) -> None:
    opened = Corpus.open(tiny)
    assert opened.decode(opened.train) + opened.decode(opened.val) == TINY
    assert opened.decode(opened.encode(TINY)) == TINY
    assert opened.decode([]) == ""
    assert len(opened.train) == len(TINY) * 9 // 10
    assert opened.vocabulary_size == len(set(TINY))


@pytest.mark.parametrize("text", ["ab", "a\r\nb\0\ufeffc", "\ufeffx<|endoftext|>\U0001f600é"])
def test_odd_text_is_kept_as_it_stands(make: Callable[[str | bytes], Path], text: str) -> None:
    opened = Corpus.open(make(text))
    assert opened.decode(opened.train) + opened.decode(opened.val) == text


def test_ids_follow_the_code_points(make: Callable[[str | bytes], Path]) -> None:
    """Written out by hand: b is 1, a is 0, c is 2."""
    folder = make("bacabacaca")
    assert (folder / "train.bin").read_bytes() == bytes([1, 0, 2, 0, 1, 0, 2, 0, 2])
    assert (folder / "val.bin").read_bytes() == bytes([0])


@pytest.mark.parametrize(("size", "dtype", "last"), [(256, "uint8", b"\xff"), (257, "uint16", b"\x00\x01")])
def test_dtype_grows_with_the_vocabulary(
    make: Callable[[str | bytes], Path], size: int, dtype: str, last: bytes
) -> None:
    folder = make("".join(chr(0x4E00 + i) for i in range(size)))
    assert json.loads((folder / "meta.json").read_text())["dtype"] == dtype
    assert (folder / "val.bin").read_bytes().endswith(last)
    assert Corpus.open(folder).val[-1] == size - 1


def test_sidecar_says_what_lies_beside_it(tiny: Path) -> None:
    meta = json.loads((tiny / "meta.json").read_text())
    train = (tiny / "train.bin").read_bytes()
    assert meta["splits"]["train"] == {"tokens": len(train), "bytes": len(train), "sha256": digest(train)}
    assert meta["vocabulary"] == sorted(set(TINY))
    assert (meta["format_version"], meta["byteorder"], meta["tokenizer"]) == (1, "little", "char")
    assert (meta["source"], meta["source_sha256"]) == ("https://example.org/tiny", digest(TINY.encode()))


def test_valid_folder_is_kept(tiny: Path) -> None:
    before = {name: (tiny / name).stat().st_mtime_ns for name in FILES}
    assert prepare("tiny", tiny.parent) == tiny
    assert before == {name: (tiny / name).stat().st_mtime_ns for name in FILES}


def test_damaged_folder_is_refused_and_left_alone(tiny: Path) -> None:
    (tiny / "val.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"val\.bin: expected 9 bytes, got 0; delete the folder"):
        prepare("tiny", tiny.parent)
    assert (tiny / "val.bin").read_bytes() == b""


def test_folder_of_another_corpus_is_refused(tiny: Path) -> None:
    tiny.rename(tiny.parent / "pydoc")
    with pytest.raises(DataError, match="expected pydoc, got tiny; delete the folder"):
        prepare("pydoc", tiny.parent)


def test_nothing_appears_if_writing_fails(
    make: Callable[[str | bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, content: object) -> None:
        if path.name == "meta.json":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mada_lab.data.prepare.write_atomic", full_disk)
        with pytest.raises(DataError, match="No space left on device"):
            make(TINY)
    assert not (tmp_path / "data" / "tiny").exists()
    assert Corpus.open(make(TINY)).name == "tiny"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected 2 characters or more, got 0"),
        (b"x", "expected 2 characters or more, got 1"),
        (b"abc\xff", "expected UTF-8, got the byte 0xff at offset 3"),
        (b"\xed\xa0\x80", "expected UTF-8, got the byte 0xed at offset 0"),
    ],
)
def test_text_must_be_utf8_and_there(make: Callable[[str | bytes], Path], content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(content)


def test_unknown_name_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'shakespeare_char'"):
        prepare("shakespere-char", tmp_path)
    with pytest.raises(ConfigError, match=r"expected one of pydoc, shakespeare_char, got '\.\./x'"):
        prepare("../x", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_from_file_must_be_the_pinned_file(tmp_path: Path) -> None:
    file = tmp_path / "input.txt"
    file.write_text("not Shakespeare")
    with pytest.raises(DataError, match=r"input\.txt: expected sha256 86c4e6aa.*, got "):
        prepare("shakespeare_char", tmp_path, from_file=file)
    with pytest.raises(DataError, match="expected a readable file"):
        prepare("shakespeare_char", tmp_path, from_file=tmp_path / "missing.txt")
    with pytest.raises(ConfigError, match="leave the option out"):
        prepare("pydoc", tmp_path, from_file=file)
    assert [path.name for path in tmp_path.iterdir()] == ["input.txt"]


def test_tinyshakespeare(tmp_path: Path) -> None:
    """The counts are those that everyone who prepares this text by characters gets."""
    if not TINYSHAKESPEARE.exists():
        pytest.skip("needs a copy of tinyshakespeare in shared/data beside the repository")
    opened = Corpus.open(prepare("shakespeare_char", tmp_path, from_file=TINYSHAKESPEARE))
    assert (len(opened.train), len(opened.val), opened.vocabulary_size) == (1_003_854, 111_540, 65)
    assert opened.decode(opened.train[:14]) == "First Citizen:"


def test_named_corpus_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file, `prepare` asks the network for the pinned address under the pinned digest and length."""
    asked: list[tuple[str, str, int]] = []

    def paper_fetch(url: str, sha256: str, max_bytes: int) -> bytes:
        asked.append((url, sha256, max_bytes))
        return TINY.encode()

    monkeypatch.setattr(download, "fetch", paper_fetch)
    opened = Corpus.open(prepare("shakespeare_char", tmp_path))
    ((url, sha256, max_bytes),) = asked
    assert url == opened.meta.source
    assert url.startswith("https://raw.githubusercontent.com/karpathy/")
    assert sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert max_bytes == 1_115_394


# ---- Corpus.open ----


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_length_but_the_right_one_is_refused(tiny: Path, split: str) -> None:
    file = tiny / f"{split}.bin"
    content = file.read_bytes()
    for wrong in [content[:n] for n in range(len(content))] + [content + b"\0"]:
        file.write_bytes(wrong)
        with pytest.raises(DataError, match=rf"{split}\.bin: expected {len(content)} bytes, got {len(wrong)};"):
            Corpus.open(tiny)


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_flipped_bit_is_found(tiny: Path, split: str) -> None:
    file = tiny / f"{split}.bin"
    content = file.read_bytes()
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(DataError, match=rf"{split}\.bin: expected"):
            Corpus.open(tiny)


@pytest.mark.parametrize("chunk_tokens", [1 << 20, 7])
def test_id_without_an_embedding_row_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch, chunk_tokens: int) -> None:
    """Even where the sidecar vouches for the file: it may have been made by hand."""
    monkeypatch.setattr(corpus, "CHUNK_TOKENS", chunk_tokens)
    size = Corpus.open(tiny).vocabulary_size
    content = bytearray((tiny / "train.bin").read_bytes())
    content[20] = size
    (tiny / "train.bin").write_bytes(content)
    edit(tiny, lambda meta: meta["splits"]["train"].update(sha256=digest(bytes(content))))
    with pytest.raises(DataError, match=rf"expected ids in \[0, {size}\), got {size} at offset 20;"):
        Corpus.open(tiny)


def test_long_split_is_read_through_only_on_request(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "VERIFIED_AT_OPEN_BYTES", 0)
    content = (tiny / "val.bin").read_bytes()
    (tiny / "val.bin").write_bytes(content[::-1])
    opened = Corpus.open(tiny)
    opened.verify("train")
    with pytest.raises(DataError, match="expected sha256"):
        opened.verify("val")


def test_missing_parts(tiny: Path, tmp_path: Path) -> None:
    (tiny / "val.bin").unlink()
    with pytest.raises(DataError, match=r"val\.bin: expected a readable file, got No such file"):
        Corpus.open(tiny)
    (tiny / "meta.json").unlink()
    with pytest.raises(DataError, match=r"meta\.json: expected a readable file, got No such file"):
        Corpus.open(tiny)
    with pytest.raises(DataError, match="got no such folder; run `mada-lab data prepare NAME` first"):
        Corpus.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("format_version", [2, 0, "1", True, 1.0, None]),
        ("dtype", ["uint16", "int8", "float32", "object", "O", 8, ["uint8"], None]),
        ("byteorder", ["big", None]),
        ("tokenizer", ["gpt2", None]),
        ("name", [1, None]),
        ("source", [None]),
        ("source_sha256", [None]),
        ("vocabulary", [[], "abc", ["b", "a"], ["a", "a"], ["ab"], [1], None]),
        ("splits", [{}, [], None, {"train": {}, "val": {}}, {"train": 1, "val": 2}]),
    ],
)
def test_sidecar_is_believed_in_nothing(tiny: Path, key: str, values: list[object]) -> None:
    for value in values:
        edit(tiny, lambda meta, value=value: meta.update({key: value}))
        with pytest.raises(DataError, match=rf"key {'dtype|vocabulary|splits' if key == 'splits' else key}") as caught:
            Corpus.open(tiny)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("tokens", 0), ("tokens", -1), ("tokens", 1e3), ("tokens", 2**62), ("bytes", "9"), ("sha256", 1)]
)
def test_split_is_believed_in_nothing(tiny: Path, key: str, value: object) -> None:
    edit(tiny, lambda meta: meta["splits"]["train"].update({key: value}))
    with pytest.raises(DataError, match=r"key splits\.train\."):
        Corpus.open(tiny)


def test_empty_split_is_refused(tiny: Path) -> None:
    """Though its sidecar agrees with it: nothing can be mapped, and nothing trained on."""
    (tiny / "val.bin").write_bytes(b"")
    edit(tiny, lambda meta: meta["splits"]["val"].update(tokens=0, bytes=0, sha256=digest(b"")))
    with pytest.raises(DataError, match=r"key splits\.val\.tokens: expected a positive integer, got 0;"):
        Corpus.open(tiny)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
def test_sidecar_must_be_an_object_in_json(tiny: Path, content: bytes) -> None:
    (tiny / "meta.json").write_bytes(content)
    with pytest.raises(DataError, match=r"meta\.json"):
        Corpus.open(tiny)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.canary,)


def test_pickle_is_never_opened(tiny: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    pickle.loads(bomb)
    assert canary.exists(), "the bomb must work for this test to show anything"
    canary.rmdir()
    (tiny / "meta.pkl").write_bytes(bomb)
    Corpus.open(tiny)
    (tiny / "meta.json").unlink()
    with pytest.raises(DataError, match=r"got meta\.pkl alone, a pickle, .* run `mada-lab data prepare NAME` again"):
        Corpus.open(tiny)
    assert not canary.exists()


def test_tokens_are_read_only_and_stay_on_disk(tiny: Path) -> None:
    train = Corpus.open(tiny).train
    assert isinstance(train, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        train[0] = 1


def test_strangers_are_refused(tiny: Path) -> None:
    opened = Corpus.open(tiny)
    for text, at in (("to é", 3), ("\U0010ffff", 0), ("\ud800", 0)):
        with pytest.raises(DataError, match=f"at character {at}"):
            opened.encode(text)
    for stranger in (-1, opened.vocabulary_size):
        with pytest.raises(DataError, match=f"at offset 1: .* got {stranger};"):
            opened.decode([0, stranger])


def test_digests_for_the_manifest(tiny: Path) -> None:
    assert Corpus.open(tiny).sha256 == {x: digest((tiny / f"{x}.bin").read_bytes()) for x in ("train", "val")}
