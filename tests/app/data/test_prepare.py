"""Preparing a text data set: the same bytes each time, whole or not at all, and nothing is prepared twice.

Catches: ids that depend on more than the text, a folder that appears half, bad input that leaves traces on the disk.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from mada_lab.data import catalog, gpt2
from mada_lab.data import prepare as module
from mada_lab.data.catalog import DATA_SETS, TextSet
from mada_lab.data.corpus import Corpus
from mada_lab.data.cuts import every
from mada_lab.data.prepare import open_or_prepare, prepare
from mada_lab.data.sources import Hub, PythonTopics, TextFile
from mada_lab.errors import ConfigError, DataError
from tests.app.data.conftest import TINY, digest

FILES = ("train.bin", "val.bin", "meta.json")


def traces(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- the same bytes ----


def test_pydoc_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (prepare("pydoc", tmp_path / run, workers=n) for run, n in (("a", 1), ("b", 3)))
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert sorted(path.name for path in first.iterdir()) == sorted(FILES)
    assert traces(tmp_path / "a") == ["pydoc", *(f"pydoc/{name}" for name in sorted(FILES))]


def test_pydoc_is_the_prose_of_this_python(tmp_path: Path) -> None:
    opened = Corpus.open(prepare("pydoc", tmp_path))
    text = opened.decode(opened.train) + opened.decode(opened.val)
    assert text == "\n\n".join(topics[key] for key in sorted(topics))
    assert len(text) > 300_000
    assert opened.meta.source_sha256 == digest(text.encode())
    assert opened.meta.source.startswith("pydoc_data.topics of CPython 3.")


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


def test_sidecar_says_what_lies_beside_it(tiny_set: Path, toy_bpe: Path) -> None:
    meta = json.loads((tiny_set / "meta.json").read_text())
    train = (tiny_set / "train.bin").read_bytes()
    assert meta["splits"]["train"] == {"tokens": len(train), "bytes": len(train), "sha256": digest(train)}
    assert meta["vocabulary"] == sorted(set(TINY))
    assert (meta["format_version"], meta["byteorder"], meta["tokenizer"]) == (1, "little", "char")
    assert (meta["source"], meta["source_sha256"]) == ("https://example.org/input.txt", digest(TINY.encode()))

    text = tiny_set.parents[1] / "input.txt"
    folder = prepare("tiny", tiny_set.parent, text, tokenizer="gpt2", bpe_files=toy_bpe)
    meta, train = json.loads((folder / "meta.json").read_text()), (folder / "train.bin").read_bytes()
    assert folder.name == meta["name"] == "tiny_gpt2"
    assert (meta["tokenizer"], meta["dtype"], meta["vocabulary_size"]) == ("gpt2", "uint16", 262)
    assert meta["tokenizer_sha256"] == digest((toy_bpe / "encoder.json").read_bytes())
    assert meta["splits"]["train"] == {"tokens": len(train) // 2, "bytes": len(train), "sha256": digest(train)}
    assert meta["source_sha256"] == digest(TINY.encode())


# ---- what is there stays ----


def test_valid_folder_is_kept(tiny_set: Path) -> None:
    before = {name: (tiny_set / name).stat().st_mtime_ns for name in FILES}
    assert prepare("tiny", tiny_set.parent) == tiny_set
    assert before == {name: (tiny_set / name).stat().st_mtime_ns for name in FILES}


def test_damaged_folder_is_refused_and_left_alone(tiny_set: Path) -> None:
    (tiny_set / "val.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"val\.bin: expected 9 bytes, got 0; delete the folder"):
        prepare("tiny", tiny_set.parent)
    assert (tiny_set / "val.bin").read_bytes() == b""


def test_folder_of_another_set_is_refused(tiny_set: Path) -> None:
    tiny_set.rename(tiny_set.parent / "pydoc")
    for opening in (prepare, lambda name, folder: open_or_prepare(name, folder, Corpus)):
        with pytest.raises(DataError, match="expected pydoc, got tiny; delete the folder"):
            opening("pydoc", tiny_set.parent)


def test_processes_that_want_the_same_set_wait_for_each_other(tmp_path: Path) -> None:
    """Four runs are started at once on a fresh checkout; without a lock, one renames what another is still writing."""
    program = "from mada_lab.data.prepare import *\nopen_or_prepare('pydoc', Path('data'), Corpus)"
    command = [sys.executable, "-c", program]
    started = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(run.communicate(timeout=120)[1], run.returncode) for run in started] == [("", 0)] * 4
    assert traces(tmp_path / "data") == ["pydoc", *(f"pydoc/{name}" for name in sorted(FILES))]


# ---- bad input ----


def test_nothing_appears_if_writing_fails(
    make: Callable[[str | bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, content: object) -> None:
        if path.name == "meta.json":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", full_disk)
        with pytest.raises(DataError, match="No space left on device"):
            make(TINY)
    assert traces(tmp_path) == ["input.txt"]
    assert Corpus.open(make(TINY)).name == "tiny"


def test_unknown_name_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'shakespeare_char'"):
        prepare("shakespere-char", tmp_path)
    with pytest.raises(ConfigError, match=r"expected one of pydoc, pydoc_gpt2, shakespeare, .*, got '\.\./x'"):
        prepare("../x", tmp_path)
    assert traces(tmp_path) == []


def test_from_file_must_be_the_pinned_file(tmp_path: Path) -> None:
    file = tmp_path / "input.txt"
    for content in ("not Shakespeare", "x" * 1_115_394, "x" * 2_000_000):
        file.write_text(content)
        with pytest.raises(DataError, match=r"input\.txt: expected (sha256 86c4e6aa|1115394 bytes).*, got "):
            prepare("shakespeare_char", tmp_path / "data", from_file=file)
    with pytest.raises(DataError, match="got a missing path"):
        prepare("shakespeare_char", tmp_path / "data", from_file=tmp_path / "missing.txt")
    with pytest.raises(ConfigError, match="leave it out"):
        prepare("pydoc", tmp_path / "data", from_file=file)
    assert traces(tmp_path) == ["input.txt"]


def test_missing_package_names_the_extra(tmp_path: Path, toy_bpe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was fetched or written before."""
    for missing, extra, name in (
        ("tiktoken", "lab", "pydoc_gpt2"),
        ("huggingface_hub", "hf", "lambada"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(DataError, match=rf'package {missing}: .* run `pip install "mada-optim\[{extra}\]"`'):
                prepare(name, tmp_path / "data", bpe_files=toy_bpe)
    assert not (tmp_path / "data").exists()


def test_application_imports_without_optional_packages() -> None:
    program = """
import sys
for name in ("tiktoken", "datasets", "huggingface_hub", "sklearn", "PIL", "pyarrow"):
    sys.modules[name] = None
import mada_lab.cli, mada_lab.data.prepare, mada_lab.data.corpus, mada_lab.data.images
mada_lab.cli.run([])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "data prepare" in run.stdout


# ---- the catalog ----


def test_variants_are_named_after_their_tokenizer() -> None:
    names = {name: choice.tokenizer for name, choice in catalog.choices().items()}
    assert names["pydoc"] == names["shakespeare_char"] == "char"
    assert names["pydoc_gpt2"] == names["shakespeare"] == names["wikitext"] == names["openwebtext"] == "gpt2"
    assert names["cifar10"] is names["digits"] is None
    assert catalog.find("shakespeare", "char").name == catalog.find("shakespeare_char").name == "shakespeare_char"
    assert catalog.find("shakespeare_char", "char").name == "shakespeare_char"
    assert catalog.find("pydoc", "gpt2").name == "pydoc_gpt2"


@pytest.mark.parametrize(
    ("name", "tokenizer", "expected"),
    [
        ("wikitext", "char", "gpt2 or gpt2_small"),
        ("pydoc", "bpe", "characters or gpt2"),
        ("shakespeare_char", "gpt2", "characters"),
        ("digits", "char", "none"),
    ],
)
def test_tokenizer_must_suit(name: str, tokenizer: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"--tokenizer, with data set {name}: expected {expected}, got {tokenizer}"):
        catalog.find(name, tokenizer)


def test_every_text_has_a_page_and_every_page_a_text() -> None:
    """docs/lab/data.md has a section for each data set."""
    page = (Path(__file__).parents[3] / "docs" / "lab" / "data.md").read_text()
    assert re.findall(r"^## `(\w+)`", page, flags=re.MULTILINE) == list(DATA_SETS)


def test_every_source_is_pinned() -> None:
    for name, entry in DATA_SETS.items():
        if isinstance(entry, TextSet) and isinstance(entry.source, Hub):
            assert re.fullmatch("[0-9a-f]{40}", entry.source.revision), name
            assert not any(path.endswith(".py") for paths in entry.source.files.values() for path in paths), name
        elif isinstance(entry, TextSet):
            assert isinstance(entry.source, PythonTopics | TextFile), name


def test_training_prepares_what_is_small_and_asks_for_what_is_large(tmp_path: Path) -> None:
    assert open_or_prepare("pydoc", tmp_path, Corpus).name == "pydoc"
    with pytest.raises(DataError, match=r"run `mada-lab data prepare openwebtext` first \(a download of 24.0 GB\)"):
        open_or_prepare("openwebtext", tmp_path, Corpus)
    with pytest.raises(ConfigError, match="expected one of text, got cifar10"):
        open_or_prepare("cifar10", tmp_path, Corpus)
    assert traces(tmp_path)[0] == "pydoc"
    assert all(name.startswith("pydoc") for name in traces(tmp_path))


# ---- how validation text comes about ----


def test_every_nth_document_validates(tmp_path: Path, toy_bpe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": f"d{i}"}) + "\n" for i in range(1, 8)))
    entry = TextSet(
        source=Hub("a/b", "0" * 40, {"train": ("x.parquet",)}), tokenizers=("gpt2",), cut=every(3), end_of_text=True
    )
    monkeypatch.setitem(catalog.DATA_SETS, "many", entry)
    opened = Corpus.open(prepare("many", tmp_path / "data", tmp_path / "train.jsonl", bpe_files=toy_bpe))
    end = "<|endoftext|>"
    assert opened.decode(opened.train) == end.join(["d1", "d2", "d4", "d5", "d7", ""])
    assert opened.decode(opened.val) == end.join(["d3", "d6", ""])
    assert opened.meta.source == "files of the user: train.jsonl as train"

    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    with pytest.raises(DataError, match="expected some for split val, got none; use a longer text"):
        prepare("many", tmp_path / "other", tmp_path / "train.jsonl", bpe_files=toy_bpe)
    assert not (tmp_path / "other").exists()


# ---- texts that are known elsewhere ----


def test_tinyshakespeare(tmp_path: Path, reference: Path) -> None:
    """The counts are those that everyone who prepares this text gets, by characters and by GPT-2's tokenizer."""
    text, bpe = reference / "data" / "tinyshakespeare" / "input.txt", reference / "data" / "gpt2_bpe"
    opened = Corpus.open(prepare("shakespeare_char", tmp_path, from_file=text))
    assert (len(opened.train), len(opened.val), opened.vocabulary_size) == (1_003_854, 111_540, 65)
    assert opened.decode(opened.train[:14]) == "First Citizen:"
    opened = Corpus.open(prepare("shakespeare", tmp_path, from_file=text, bpe_files=bpe))
    assert (len(opened.train), len(opened.val), opened.vocabulary_size) == (301_966, 36_059, 50_257)
    assert opened.decode(opened.train[:3]) == "First Citizen:"
    assert opened.decode(opened.train) + opened.decode(opened.val) == text.read_text()


def test_wikitext_from_a_folder(tmp_path: Path, reference: Path) -> None:
    """Without train.txt, valid.txt is cut into training and validation text; test.txt is only for testing."""
    source, bpe = reference / "data" / "wikitext2", reference / "data" / "gpt2_bpe"
    opened = Corpus.open(prepare("wikitext", tmp_path, source, bpe_files=bpe))
    assert opened.decode(opened.train) + opened.decode(opened.val) == (source / "valid.txt").read_text()
    assert opened.decode(opened.split("test")) == (source / "test.txt").read_text()
    assert opened.meta.source == "files of the user: valid.txt as val, test.txt as test"
    assert opened.vocabulary_size == 50_257
    both = Path(f"{source / 'test.txt'}:{source / 'valid.txt'}")
    again = prepare("wikitext", tmp_path / "again", both, bpe_files=bpe)
    for name in ("train.bin", "val.bin", "test.bin", "meta.json"):
        assert (again / name).read_bytes() == (opened.folder / name).read_bytes()


def test_a_set_that_prepares_itself_names_the_command_of_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> bytes:
        raise gpt2.ENCODER.error("download, from", "a response", "no network")

    monkeypatch.setattr(module, "find_encoder", unreachable)
    with pytest.raises(DataError, match=r"vocab\.bpe: `mada-lab data prepare wikitext --bpe-files DIR`$"):
        open_or_prepare("wikitext", tmp_path, Corpus)
