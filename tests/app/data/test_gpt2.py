"""GPT-2's tokenizer: tiktoken's ids, from files whose content is checked, wherever they lie.

Catches: a byte that is decoded to another token, a file that isn't checked, text that becomes a control token.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from mada_lab.data import download, gpt2
from mada_lab.data.gpt2 import Gpt2Tokenizer, find_encoder
from mada_lab.errors import DataError
from tests.app.data.conftest import END


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the tokenizer's cache of this machine, nor its network."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpt2.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))


def test_bytes_and_merges_have_their_ids(toy: Gpt2Tokenizer) -> None:
    """By hand: `!` is the first byte that can be seen, 0xff the last one; the others follow from 0 on."""
    assert toy.encode("!").tolist() == [0]
    assert toy.encode("th the then").tolist() == [256, 258, 258, toy.encode("n")[0]]
    assert toy.encode("\0\1").tolist() == [188, 189]
    assert toy.encode(" ").tolist() == [220]
    assert (toy.vocabulary_size, toy.end_of_text) == (262, END)
    assert toy.encode("the").dtype == np.dtype("<u2")


def test_special_token_in_text_is_text(toy: Gpt2Tokenizer) -> None:
    ids = toy.encode("a<|endoftext|>b")
    assert END not in ids
    assert toy.decode(ids) == "a<|endoftext|>b"
    assert toy.decode([END]) == "<|endoftext|>"


def test_real_ids_are_those_that_the_world_has(real_gpt2: Gpt2Tokenizer) -> None:
    assert real_gpt2.encode("hello world").tolist() == [31373, 995]
    assert real_gpt2.encode("<|endoftext|>").tolist() == [27, 91, 437, 1659, 5239, 91, 29]
    assert (real_gpt2.vocabulary_size, real_gpt2.end_of_text) == (50_257, 50_256)


def test_real_ids_are_tiktokens_own(real_gpt2: Gpt2Tokenizer, reference: Path, tmp_path: Path) -> None:
    """tiktoken builds its encoding itself in another process, from its cache, which is filled with the same files."""
    for file in (gpt2.ENCODER, gpt2.MERGES):
        key = hashlib.sha1(file.url.encode()).hexdigest()
        shutil.copy(reference / "data" / "gpt2_bpe" / file.name, tmp_path / key)
    program = """
        import sys, tiktoken, numpy
        ids = tiktoken.get_encoding("gpt2").encode_ordinary(open(sys.argv[1], encoding="utf-8").read())
        numpy.array(ids, dtype="<u2").tofile(sys.argv[2])
    """
    text = reference / "data" / "wikitext2" / "valid.txt"
    command = [sys.executable, "-c", textwrap.dedent(program), text, tmp_path / "ids"]
    environment = os.environ | {"TIKTOKEN_CACHE_DIR": str(tmp_path)}
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert np.array_equal(np.fromfile(tmp_path / "ids", "<u2"), real_gpt2.encode(text.read_text()))


# ---- where the files lie ----


def test_given_folder_is_checked(toy_bpe: Path, tmp_path: Path) -> None:
    content = (toy_bpe / "encoder.json").read_bytes()
    assert find_encoder(toy_bpe, tmp_path) == content
    for name in ("encoder.json", "vocab.bpe"):
        good = (toy_bpe / name).read_bytes()
        (toy_bpe / name).write_bytes(good[:-1] + b"x")
        with pytest.raises(DataError, match=rf"{name}: expected sha256 .*set TIKTOKEN_CACHE_DIR, .*--bpe-files DIR"):
            find_encoder(toy_bpe, tmp_path)
        (toy_bpe / name).unlink()
        with pytest.raises(DataError, match=rf"{name}: expected a readable file"):
            find_encoder(toy_bpe, tmp_path)
        (toy_bpe / name).write_bytes(good)


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", None])
def test_cache_of_tiktoken_is_used_if_it_is_right(
    variable: str | None, toy_bpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "tmp" / "data-gym-cache" if variable is None else tmp_path / "cache"
    cache.mkdir(parents=True)
    if variable is not None:
        monkeypatch.setenv(variable, str(cache))
    content = (toy_bpe / "encoder.json").read_bytes()
    path = cache / hashlib.sha1(gpt2.ENCODER.url.encode()).hexdigest()
    path.write_bytes(content)
    assert find_encoder(None, tmp_path / "downloads") == content
    path.write_bytes(content + b" ")
    monkeypatch.setattr(gpt2, "fetch", lambda file, folder: toy_bpe / file.name)
    assert find_encoder(None, tmp_path / "downloads") == content
    assert path.read_bytes() == content + b" ", "what is in the cache of another program is left alone"


def test_without_cache_it_is_downloaded(toy_bpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(file: download.PinnedFile, folder: Path) -> Path:
        asked.append((file, folder))
        return toy_bpe / file.name

    monkeypatch.setattr(gpt2, "fetch", fetch)
    find_encoder(None, tmp_path)
    assert asked == [(gpt2.ENCODER, tmp_path)]


def test_pinned_files_are_those_that_tiktoken_expects() -> None:
    import inspect

    from tiktoken_ext import openai_public

    source = inspect.getsource(openai_public.gpt2)
    for file in (gpt2.ENCODER, gpt2.MERGES):
        assert file.url in source
        assert file.sha256 in source


def test_a_smaller_vocabulary_has_the_first_merges(real_gpt2: Gpt2Tokenizer, reference: Path) -> None:
    small, text = Gpt2Tokenizer(real_gpt2.encoder_json, 2048), "the unlikeliest café, \U0001f600"
    ids = small.encode(text)
    assert small.decode(ids) == text
    assert (small.end_of_text, small.vocabulary_size) == (2047, 2048)
    assert ids[0] == real_gpt2.encode("the")[0]
    assert len(real_gpt2.encode(text)) < len(ids) < len(text.encode())
    assert ids.max() < 2047
