"""Where text comes from: the Hub through files that the user has, or its client; and files in all the formats.

Catches: a split taken for another, a lost blank line, a row that is no text, a library's error as it stands.
"""

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.data.catalog import DATA_SETS, LAMBADA_TEST
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import prepare
from mada_lab.data.readers import by_split, documents
from mada_lab.data.sources import Hub
from mada_lab.errors import DataError
from tests.app.data.conftest import digest

pyarrow = pytest.importorskip("pyarrow", reason="the extra hf is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

END = "<|endoftext|>"


def texts(path: Path) -> list[str]:
    return ["".join(document) for document in documents(path)]


def write_parquet(path: Path, rows: list[str | None], column: str = "text", group: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: rows, "url": ["x"] * len(rows)}), path, row_group_size=group)
    return path


# ---- formats ----


def test_each_format_gives_its_documents(tmp_path: Path) -> None:
    rows = [f"row {i} é\n" for i in range(700)]
    (tmp_path / "a.txt").write_text("one\n\ntwo", newline="")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row, "id": 1}) + "\n\n" for row in rows))
    write_parquet(tmp_path / "a.parquet", rows)
    assert texts(tmp_path / "a.txt") == ["one\n\ntwo"]
    assert texts(tmp_path / "a.jsonl") == texts(tmp_path / "a.parquet") == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: expected JSON"),
        (b"[" * 100_000, "line 2: expected JSON"),
        (b"\xff", "line 2: expected JSON"),
        (b'"text"', "line 2: expected a string under text, got NoneType"),
        (b'{"texts": "x"}', "line 2: expected a string under text, got NoneType"),
        (b'{"text": 1}', "line 2: expected a string under text, got int"),
    ],
)
def test_line_that_is_no_text_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n' + line + b"\n")
    with pytest.raises(DataError, match=rf"a\.jsonl, {message}"):
        texts(tmp_path / "a.jsonl")


def test_parquet_that_is_none_is_one_line(tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "good.parquet", ["some text"] * 5000, group=500).read_bytes()
    damaged = good[:200] + bytes(len(good) - 400) + good[-200:]
    for content in (b"", b"PAR1 and no more PAR1", good[:-10], damaged):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet: expected Parquet with a column text, got ") as caught:
            texts(tmp_path / "a.parquet")
        assert "\n" not in str(caught.value)
    write_parquet(tmp_path / "a.parquet", ["x"], column="content")
    with pytest.raises(DataError, match=r"a\.parquet: expected Parquet with a column text, got "):
        texts(tmp_path / "a.parquet")
    write_parquet(tmp_path / "a.parquet", ["x", None])
    with pytest.raises(DataError, match=r"a\.parquet: expected a string under text, got NoneType"):
        texts(tmp_path / "a.parquet")


def test_libraries_below_say_and_leave_nothing(tmp_path: Path, toy_bpe: Path) -> None:
    """They'd write lines of their own beside the error, and locks into the home folder."""
    write_parquet(tmp_path / "good.parquet", ["x"])
    write_parquet(tmp_path / "bad.parquet", ["x"], column="content")
    program = """
        import sys
        from pathlib import Path
        from mada_lab.data.readers import documents
        from mada_lab.errors import DataError
        assert [list(document) for document in documents(Path("good.parquet"))] == [["x"]]
        try:
            list(documents(Path("bad.parquet")))
        except DataError as error:
            print("refused")
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    environment["HOME"] = str(tmp_path / "home")
    command = [sys.executable, "-c", textwrap.dedent(program)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (run.stdout, run.stderr, run.returncode) == ("refused\n", "", 0)
    assert not (tmp_path / "home").exists()


# ---- files of the user ----


def test_names_tell_the_split(tmp_path: Path) -> None:
    for name in (
        *("train-00001-of-00002.parquet", "train-00000-of-00002.parquet", "validation-00000-of-00001.parquet"),
        *("wiki.test.tokens", "README.md", "notes.docx"),
    ):
        (tmp_path / name).write_text("x")
    found = by_split(tmp_path, ("train", "val", "test"))
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        "val": ["validation-00000-of-00001.parquet"],
        "test": ["wiki.test.tokens"],
    }


def test_with_one_split_names_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "lambada_train_or_whatever.jsonl").write_text("x")
    assert list(by_split(tmp_path / "lambada_train_or_whatever.jsonl", ("test",))) == ["test"]


def test_file_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    for name in ("notes.txt", "trainer.txt", "contest.txt"):
        (tmp_path / name).write_text("x")
        with pytest.raises(DataError, match=rf"{name}: expected train or val in the name, got {name}; rename it"):
            by_split(tmp_path / name, ("train", "val"))
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", Path(__file__)):
        with pytest.raises(DataError, match=r"expected files \.txt, \.raw, .* got none"):
            by_split(path, ("train", "val"))
    with pytest.raises(DataError, match="got a missing path; check it"):
        by_split(tmp_path / "missing", ("train", "val"))


# ---- the Hub ----


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a file where the Hub's client looks first, so that it asks no server: its cache, in its own layout."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def place(source: Hub, path: str) -> Path:
        repository = cache / f"datasets--{source.repository.replace('/', '--')}"
        found = repository / "snapshots" / source.revision / path
        found.parent.mkdir(parents=True, exist_ok=True)
        return found

    return place


def test_wikitext_from_the_hub_is_the_text_it_was(
    hub: Callable[..., Path], tmp_path: Path, toy_bpe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub has a row for each line, and nothing where the line was ` \\n`."""
    monkeypatch.setattr(socket.socket, "connect", None)
    text = " \n = Title = \n \n Some text \n \n"
    rows = ["" if line == " \n" else line for line in text.splitlines(keepends=True)]
    source = DATA_SETS["wikitext"].source
    for split, paths in source.files.items():
        write_parquet(hub(source, paths[0]), [*rows, f" {split} \n"])
    opened = Corpus.open(prepare("wikitext", tmp_path / "data", bpe_files=toy_bpe))
    for split in ("train", "val", "test"):
        assert opened.decode(opened.split(split)) == text + f" {split} \n"
    assert opened.meta.source == (
        "https://huggingface.co/datasets/Salesforce/wikitext/tree/b08601e04326c79dfdd32d625aee71d232d685c3"
    )
    for split in ("train", "valid", "test"):  # the same text, brought as files
        name = {"valid": "val"}.get(split, split)
        (tmp_path / f"wiki.{split}.raw").write_text(text + f" {name} \n")
    brought = prepare("wikitext", tmp_path / "brought", tmp_path, bpe_files=toy_bpe)
    for name in ("train.bin", "val.bin", "test.bin"):
        assert (brought / name).read_bytes() == (opened.folder / name).read_bytes()


def test_wikitext_counts_of_the_hub_agree_with_the_text(reference: Path) -> None:
    """The Hub lists 1,270,947 bytes in 4,358 rows for the test split, each row with 4 more for its length."""
    lines = (reference / "data" / "wikitext2" / "test.txt").read_text().splitlines(keepends=True)
    assert len(lines) == 4358
    assert sum(len(line.encode()) for line in lines if line != " \n") + 4 * len(lines) == 1_270_947


def test_lambada_from_the_hub_is_checked(hub: Callable[..., Path], tmp_path: Path, toy_bpe: Path) -> None:
    source = DATA_SETS["lambada"].source
    found = hub(source, "data/lambada_test.jsonl")
    found.write_text('{"text": "not it"}\n')
    with pytest.raises(DataError, match=r"lambada_test\.jsonl: expected 1819752 bytes, got 19;"):
        prepare("lambada", tmp_path / "data", bpe_files=toy_bpe)
    assert not (tmp_path / "data").exists()
    assert (LAMBADA_TEST.bytes, LAMBADA_TEST.sha256[:8]) == (1_819_752, "4aa8d02c")


def test_lambada_is_for_testing_alone(tmp_path: Path, toy_bpe: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "the one"}\n{"text": "the other"}\n')
    opened = Corpus.open(prepare("lambada", tmp_path / "data", tmp_path / "mine.jsonl", bpe_files=toy_bpe))
    assert opened.decode(opened.split("test")) == f"the one{END}the other{END}"
    with pytest.raises(DataError, match="expected a split train, got only test; choose a data set that has it"):
        _ = opened.train


def test_openwebtext_reads_its_files_in_order(
    hub: Callable[..., Path], tmp_path: Path, toy_bpe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", None)
    entry = DATA_SETS["openwebtext"]
    paths = entry.source.files["train"]
    assert len(paths) == len(set(paths)) == 80
    source = replace(entry.source, files={"train": paths[:3]})  # the others would take ten seconds
    monkeypatch.setitem(DATA_SETS, "openwebtext", replace(entry, source=source))
    rows = [f"document {i}" for i in range(3 * 1500)]
    for number, path in enumerate(paths[:3]):
        write_parquet(hub(source, path), rows[number * 1500 : (number + 1) * 1500])
    opened = Corpus.open(prepare("openwebtext", tmp_path / "data", bpe_files=toy_bpe))
    validating = rows[1999::2000]
    training = [row for row in rows if row not in set(validating)]
    assert opened.decode(opened.val) == "".join(row + END for row in validating) != ""
    assert opened.decode(opened.train) == "".join(row + END for row in training)
    assert opened.meta.source_sha256 == digest("".join(rows).encode())


def test_hub_that_cannot_be_reached_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"download, of data/lambada_test.jsonl in EleutherAI.*--from-file PATH"
    ) as caught:
        DATA_SETS["lambada"].source.open(None, tmp_path)
    assert "\n" not in str(caught.value)


def test_parquet_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", ["x"])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'package datasets: .* run `pip install "mada-optim\[hf\]"`'):
        texts(tmp_path / "a.parquet")
