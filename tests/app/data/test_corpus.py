"""Opening a text data set: no damage goes unseen, and nothing in its folder is believed.

Catches: a file of another length or content, ids read under another type, a sidecar that lies, a pickle that is opened.
"""

import contextlib
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mada_lab.data import disk_array
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import prepare
from mada_lab.errors import DataError
from tests.app.data.conftest import TINY, digest


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Applies `change` to the sidecar."""
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


@pytest.fixture
def tiny_bpe(tiny_set: Path, toy_bpe: Path) -> Path:
    text = tiny_set.parents[1] / "input.txt"
    return prepare("tiny", tiny_set.parent, text, tokenizer="gpt2", bpe_files=toy_bpe)


# ---- what was written ----


def test_text_survives_the_round_trip(tiny_set: Path, tiny_bpe: Path) -> None:
    for folder in (tiny_set, tiny_bpe):
        opened = Corpus.open(folder)
        assert opened.decode(opened.train) + opened.decode(opened.val) == TINY
        assert opened.decode(opened.encode(TINY)) == TINY
        assert opened.decode([]) == ""


def test_vocabulary_size_is_the_tokenizers(tiny_set: Path, tiny_bpe: Path) -> None:
    assert Corpus.open(tiny_set).vocabulary_size == len(set(TINY))
    assert Corpus.open(tiny_bpe).vocabulary_size == 262
    assert Corpus.open(tiny_bpe).train.dtype == np.dtype("<u2")


def test_data_set_carries_its_tokenizer(tiny_bpe: Path, toy_bpe: Path) -> None:
    """After the preparation, neither --bpe-files nor the network is needed."""
    for file in toy_bpe.iterdir():
        file.unlink()
    assert Corpus.open(tiny_bpe).decode([257, 258]) == "the the"
    (tiny_bpe / "encoder.json").write_bytes(b"{}")
    with pytest.raises(DataError, match=r"encoder\.json: expected sha256 .*; delete the folder"):
        Corpus.open(tiny_bpe).encode("the")
    (tiny_bpe / "encoder.json").unlink()
    with pytest.raises(DataError, match=r"encoder\.json: expected a readable file"):
        Corpus.open(tiny_bpe).encode("the")


def test_strangers_are_refused(tiny_set: Path, tiny_bpe: Path) -> None:
    opened = Corpus.open(tiny_set)
    for text, at in (("to é", 3), ("\U0010ffff", 0), ("\ud800", 0)):
        with pytest.raises(DataError, match=f"at character {at}"):
            opened.encode(text)
    with pytest.raises(DataError, match=r"at character 2: expected characters, got the lone surrogate '\\ud800'"):
        Corpus.open(tiny_bpe).encode("ab\ud800")
    for folder in (tiny_set, tiny_bpe):
        opened = Corpus.open(folder)
        for stranger in (-1, opened.vocabulary_size):
            with pytest.raises(DataError, match=f"at offset 1: .* got {stranger};"):
                opened.decode([0, stranger])


def test_digests_for_the_manifest(tiny_set: Path) -> None:
    assert Corpus.open(tiny_set).sha256 == {x: digest((tiny_set / f"{x}.bin").read_bytes()) for x in ("train", "val")}


def test_split_that_is_not_there_is_named(tiny_set: Path) -> None:
    with pytest.raises(DataError, match=r"expected a split test, got only train, val; choose a data set"):
        Corpus.open(tiny_set).split("test")


# ---- damage ----


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_length_but_the_right_one_is_refused(tiny_set: Path, split: str) -> None:
    file = tiny_set / f"{split}.bin"
    content = file.read_bytes()
    for wrong in [content[:n] for n in range(len(content))] + [content + b"\0"]:
        file.write_bytes(wrong)
        with pytest.raises(DataError, match=rf"{split}\.bin: expected {len(content)} bytes, got {len(wrong)};"):
            Corpus.open(tiny_set)


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_flipped_bit_is_found(tiny_set: Path, split: str) -> None:
    file = tiny_set / f"{split}.bin"
    content = file.read_bytes()
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(DataError, match=rf"{split}\.bin: expected"):
            Corpus.open(tiny_set)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 7])
def test_id_without_an_embedding_row_is_named(
    tiny_set: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    """Even where the sidecar vouches for the file: it may have been made by hand."""
    monkeypatch.setattr(disk_array, "CHUNK_BYTES", chunk_bytes)
    size = Corpus.open(tiny_set).vocabulary_size
    original = (tiny_set / "train.bin").read_bytes()
    for at in (0, 20, len(original) - 1):
        content = bytearray(original)
        content[at] = size
        (tiny_set / "train.bin").write_bytes(content)
        edit(tiny_set, lambda meta, content=content: meta["splits"]["train"].update(sha256=digest(bytes(content))))
        with pytest.raises(DataError, match=rf"expected numbers in \[0, {size}\), got {size} at offset {at};"):
            Corpus.open(tiny_set)


def test_ids_of_another_type_are_refused(tiny_bpe: Path) -> None:
    """Written as 32 bits or the other way round, ids look like ids; the sidecar tells."""
    meta = json.loads((tiny_bpe / "meta.json").read_text())
    tokens = meta["splits"]["train"]["tokens"]
    for dtype, length in (("uint32", 4), ("uint8", 1)):
        edit(tiny_bpe, lambda x, d=dtype, n=length: (x.update(dtype=d), x["splits"]["train"].update(bytes=tokens * n)))
        with pytest.raises(DataError, match="key dtype: expected uint16 for 262 token ids"):
            Corpus.open(tiny_bpe)
    edit(tiny_bpe, lambda x: (x.update(dtype="uint16"), x["splits"]["train"].update(bytes=tokens * 4)))
    with pytest.raises(DataError, match=rf"key splits\.train\.bytes: expected {tokens * 2}"):
        Corpus.open(tiny_bpe)
    edit(tiny_bpe, lambda x: (x.update(byteorder="big"), x["splits"]["train"].update(bytes=tokens * 2)))
    with pytest.raises(DataError, match="key byteorder: expected 'little', got 'big'"):
        Corpus.open(tiny_bpe)
    edit(tiny_bpe, lambda x: x.update(byteorder="little"))
    swapped = np.fromfile(tiny_bpe / "train.bin", "<u2").astype(">u2")
    (tiny_bpe / "train.bin").write_bytes(swapped.tobytes())
    with pytest.raises(DataError, match=r"train\.bin: expected"):
        Corpus.open(tiny_bpe)


def test_missing_parts(tiny_set: Path, tmp_path: Path) -> None:
    (tiny_set / "val.bin").unlink()
    with pytest.raises(DataError, match=r"val\.bin: expected a readable file, got No such file"):
        Corpus.open(tiny_set)
    (tiny_set / "meta.json").unlink()
    with pytest.raises(DataError, match=r"meta\.json: expected a readable file, got No such file"):
        Corpus.open(tiny_set)
    with pytest.raises(DataError, match="got no such folder; run `mada-lab data prepare NAME` first"):
        Corpus.open(tmp_path / "nowhere")


# ---- the sidecar ----


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("format_version", [2, 0, "1", True, 1.0, None]),
        ("dtype", ["uint16", "int8", "float32", "object", "O", 8, ["uint8"], None]),
        ("byteorder", ["big", None]),
        ("tokenizer", ["gpt3", None, ["char"]]),
        ("name", [1, None]),
        ("source", [None]),
        ("source_sha256", [None]),
        ("vocabulary", [[], "abc", ["b", "a"], ["a", "a"], ["ab"], [1], None]),
        ("splits", [{}, [], None, {"train": {}, "val": {}}, {"train": 1, "val": 2}, {"valid": {}}]),
    ],
)
def test_sidecar_is_believed_in_nothing(tiny_set: Path, key: str, values: list[object]) -> None:
    for value in values:
        edit(tiny_set, lambda meta, value=value: meta.update({key: value}))
        with pytest.raises(DataError, match=rf"key {'dtype|vocabulary|splits' if key == 'splits' else key}") as caught:
            Corpus.open(tiny_set)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "values"),
    [("vocabulary_size", [261, 0, -1, 2**62, "262", None]), ("tokenizer_sha256", ["", "0" * 64, 1, None])],
)
def test_sidecar_of_byte_pairs_is_believed_in_nothing(tiny_bpe: Path, key: str, values: list[object]) -> None:
    for value in values:
        edit(tiny_bpe, lambda meta, value=value: meta.update({key: value}))
        with pytest.raises(DataError, match=f"key {key}: expected"):
            Corpus.open(tiny_bpe)


@pytest.mark.parametrize(
    ("key", "value"), [("tokens", 0), ("tokens", -1), ("tokens", 1e3), ("tokens", 2**62), ("bytes", "9"), ("sha256", 1)]
)
def test_split_is_believed_in_nothing(tiny_set: Path, key: str, value: object) -> None:
    edit(tiny_set, lambda meta: meta["splits"]["train"].update({key: value}))
    with pytest.raises(DataError, match=r"key splits\.train\."):
        Corpus.open(tiny_set)


def test_empty_split_is_refused(tiny_set: Path) -> None:
    """Though its sidecar agrees with it: there is nothing to train on."""
    (tiny_set / "val.bin").write_bytes(b"")
    edit(tiny_set, lambda meta: meta["splits"]["val"].update(tokens=0, bytes=0, sha256=digest(b"")))
    with pytest.raises(DataError, match=r"key splits\.val\.tokens: expected a positive integer, got 0;"):
        Corpus.open(tiny_set)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
def test_sidecar_must_be_an_object_in_json(tiny_set: Path, content: bytes) -> None:
    (tiny_set / "meta.json").write_bytes(content)
    with pytest.raises(DataError, match=r"meta\.json"):
        Corpus.open(tiny_set)


def test_sidecar_of_random_damage_opens_or_is_refused(tiny_set: Path) -> None:
    """Nothing but a DataError in one line, whatever a thousand sidecars say."""
    content, draw, refused = (tiny_set / "meta.json").read_bytes(), random.Random(0), 0
    for round_ in range(1000):
        damaged = bytearray(content)
        for _ in range(1 + round_ % 4):
            damaged[draw.randrange(len(damaged))] = draw.choice(b'0123456789-.eE"[]{},:\\ntru\xff\x00')
        if round_ % 5 == 0:
            start = draw.randrange(len(damaged))
            del damaged[start : start + draw.randrange(40)]
        (tiny_set / "meta.json").write_bytes(damaged)
        with contextlib.suppress(DataError):
            refused += 1
            Corpus.open(tiny_set)
            refused -= 1
    assert refused > 700


def test_images_are_no_text(tiny_set: Path) -> None:
    edit(tiny_set, lambda meta: meta.update(kind="images"))
    with pytest.raises(DataError, match="expected a data set of text, got one of images; choose another"):
        Corpus.open(tiny_set)


def test_folder_of_the_first_release_opens(tmp_path: Path) -> None:
    """As version 0.1.0 wrote it: whoever has one need not prepare it again, and resumed runs find their data."""
    (tmp_path / "train.bin").write_bytes(bytes([1, 0, 2, 0, 1, 0, 2, 0, 2]))
    (tmp_path / "val.bin").write_bytes(bytes([0]))
    splits = {
        "train": {"tokens": 9, "bytes": 9, "sha256": digest(bytes([1, 0, 2, 0, 1, 0, 2, 0, 2]))},
        "val": {"tokens": 1, "bytes": 1, "sha256": digest(bytes([0]))},
    }
    meta = {
        **{"format_version": 1, "byteorder": "little", "tokenizer": "char", "name": "tiny", "source": "x"},
        **{"source_sha256": digest(b"bacabacaca"), "dtype": "uint8", "vocabulary": ["a", "b", "c"], "splits": splits},
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    opened = Corpus.open(tmp_path)
    assert opened.decode(opened.train) + opened.decode(opened.val) == "bacabacaca"


# ---- pickles ----


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.canary,)


def test_pickle_is_never_opened(tiny_set: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    pickle.loads(bomb)
    assert canary.exists(), "the bomb must work for this test to show anything"
    canary.rmdir()
    (tiny_set / "meta.pkl").write_bytes(bomb)
    Corpus.open(tiny_set)
    (tiny_set / "meta.json").unlink()
    with pytest.raises(DataError, match=r"got meta\.pkl alone, a pickle, .* run `mada-lab data prepare NAME` again"):
        Corpus.open(tiny_set)
    assert not canary.exists()
