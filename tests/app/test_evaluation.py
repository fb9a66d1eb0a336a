"""The commands eval, export and generate on a small run: what they print, what they write, and what they refuse.

Catches: bytes or words that are not the text's, end-of-text tokens counted as text, a text encoded by another tokenizer
than the network's, samples that a seed doesn't repeat.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mada_lab import cli
from mada_lab.compute.device import Precision
from mada_lab.config.keys import TrainConfig
from mada_lab.data.corpus import Corpus
from mada_lab.data.gpt2 import Gpt2Tokenizer
from mada_lab.data.prepare import prepare
from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import ConfigError, DataError
from mada_lab.evaluation import texts
from mada_lab.pretrained.generate import sample
from mada_lab.pretrained.weights import read
from mada_lab.tasks.measure import mean_loss
from mada_lab.training.trainer import train
from tests.app.conftest import Silent
from tests.app.test_model import model, scrambled

PLACE = Precision(torch.device("cpu"), torch.float32)


@pytest.fixture
def run(tiny: TrainConfig, corpus: Corpus) -> str:
    train(replace(tiny, max_iters=5), corpus, Silent())
    return tiny.out_dir


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    cli.run(list(words))
    return capsys.readouterr().out


def result(folder: str | Path, name: str) -> dict:
    return json.loads(Path(folder, f"evaluation_{name}.json").read_text())


def test_the_numbers_of_a_file(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Windows side by side are what the training loop's own evaluation sees as one batch."""
    (tmp_path / "a.txt").write_text("the two words\nand three more\n" * 4 + "\u2014.")
    output = printed(capsys, "eval", run, f"--from-file={tmp_path / 'a.txt'}", "--stride=16", "--device=cpu")
    found = result(run, "a.txt_stride_16_16")
    assert (found["words"], found["bytes"], found["tokens"]) == (25, 120, 118)
    network = read(run)
    ids = torch.from_numpy(network.tokenizer().encode((tmp_path / "a.txt").read_text()).astype(np.int64))
    ids = ids[: 7 * 16 + 1]
    rows = [(ids[at : at + 16][None], ids[at + 1 : at + 17][None]) for at in range(0, 112, 16)]
    (tmp_path / "b.txt").write_text(network.tokenizer().decode(ids.numpy()))
    printed(capsys, "eval", run, f"--from-file={tmp_path / 'b.txt'}", "--stride=16", "--device=cpu")
    exact = result(run, "b.txt_stride_16_16")
    assert exact["loss"] == pytest.approx(mean_loss(network.model(), rows, PLACE), rel=1e-6)
    assert found["token_perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["word_perplexity"] == pytest.approx(math.exp(found["loss"] * 117 / 25))
    assert found["bits_per_byte"] == pytest.approx(found["loss"] * 117 / 120 / math.log(2))
    assert found["network"]["step"] == 5
    for shown in ("stride: windows of 16, 16 apart, each token scored once", "8, 117 tokens scored", "bits per byte"):
        assert shown in output


def test_a_prepared_set_and_its_text_give_the_same(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And so does an export; by default the text is the run's own data set's, and goes into the run's folder."""
    printed(capsys, "eval", run, "--device=cpu", "--context=8", "--stride=8")
    printed(capsys, "export", run)
    printed(capsys, "eval", f"{run}/export", "--dataset=pydoc", f"--data-dir={read(run).data_dir}", "--mode=paper")
    printed(capsys, "eval", run, "--mode=paper", f"--out={tmp_path}")
    assert result(run, "pydoc_val_stride_8_8")["tokens"] == len(Corpus.open(Path(str(read(run).data_dir), "pydoc")).val)
    exported, direct = result(f"{run}/export", "pydoc_val_paper_16"), result(tmp_path, "pydoc_val_paper_16")
    assert exported["loss"] == direct["loss"]
    assert direct["windowing"]["mode"] == "paper"


def test_a_character_out_of_the_vocabulary_is_refused(run: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("caf\u00e9 \u4e00")
    with pytest.raises(DataError, match="expected characters of the vocabulary, got '\u00e9'"):
        cli.run(["eval", run, f"--from-file={tmp_path / 'a.txt'}"])
    assert not list(Path(run).glob("evaluation*"))


REFUSED = [
    (["--mode=papper"], "option --mode: expected stride or paper, got papper"),
    (["--split=train"], "option --split: expected val or test, got train"),
    (["--stride=17"], r"option --stride: expected a whole number in \[1, 16\], got 17"),
    (["--context=17"], r"option --context: expected a whole number in \[1, 16\]"),
    (["--mode=paper", "--stride=4"], "option --stride: expected none with --mode=paper"),
    (["--dataset=pydok"], "did you mean 'pydoc'"),
    (["--dataset=digits"], "expected a data set of text"),
    (["--dataset=pydoc", "--split=test"], "expected a split test"),
    (["--from-file=README"], "got a missing path"),
    (["--from-file=missing.txt"], "got a missing path"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=lambda x: str(x)[:30])
def test_wrong_options_are_refused(words: list[str], message: str, run: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        cli.run(["eval", run, *words])


@pytest.mark.parametrize("command", ["eval", "generate", "export"])
def test_a_run_of_images_is_refused_as_such(command: str, tmp_path: Path) -> None:
    words = ["--dataset=digits", "--model=mlp", "--max_iters=2", "--optimizer=adamw", f"--out_dir={tmp_path / 'run'}"]
    cli.run(["vision", *words, f"--data_dir={tmp_path}", "--device=cpu"])
    with pytest.raises(ConfigError, match="expected a run of text, got one of images"):
        cli.run([command, str(tmp_path / "run")])


def test_a_text_file_may_have_any_ending(run: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("The text of a file. " * 9)
    cli.run(["eval", run, f"--from-file={tmp_path / 'README.md'}", "--device=cpu"])
    assert result(run, "README.md_stride_16_8")["text"]["documents"] == 1


def test_generate_repeats_itself(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("generate", run, "--prompt=The ", "--tokens=40", "--device=cpu")
    first = printed(capsys, *words, "--seed=3")
    assert len(first) == 4 + 40 + 1
    assert first.startswith("The ")
    assert printed(capsys, *words, "--seed=3") == first
    assert printed(capsys, *words, "--seed=4") != first
    greedy = printed(capsys, *words, "--temperature=0")
    assert printed(capsys, *words, "--top-k=1", "--seed=9") == greedy == printed(capsys, *words, "--temperature=1e-4")
    ids = read(run).tokenizer().encode(greedy[:-1]).astype(np.int64)
    for at in (4, 30):  # each token is the most likely one after the 16 before it
        logits, _ = read(run).model()(torch.from_numpy(ids[max(0, at - 16) : at])[None])
        assert int(logits[0, -1].argmax()) == ids[at]
    for wrong in ("--temperature=-1", "--temperature=nan", "--top-k=0", "--tokens=x"):
        with pytest.raises(ConfigError, match=f"generate, option {wrong.partition('=')[0]}"):
            cli.run([*words, wrong])


def test_rows_of_wikitext_as_the_paper_has_them() -> None:
    """Each line ended, and a blank line, which its source had emptied, by the end alone."""

    class Tokenizer(CharTokenizer):
        end_of_text = 9

    text = texts.Text("wikitext", "test", "", [" \n = A = \n \nb\n"], lines=True)
    tokenizer = Tokenizer("\n =Ab")
    assert text.tokens(tokenizer).tolist() == tokenizer.encode(" \n = A = \n \nb\n").tolist()
    ended = [*tokenizer.encode(" = A = \n"), 9], [*tokenizer.encode("b\n"), 9]
    assert text.paper_tokens(tokenizer).tolist() == [9, *ended[0], 9, *ended[1]]


def test_documents_of_lambada(tmp_path: Path, reference: Path) -> None:
    """Out of a prepared set they come as they went in, and their ends are no bytes and no words."""
    passages = ["First passage , with an end", "<|endoftext|> is text here", "caf\u00e9\n\n x"]
    given = tmp_path / "lambada_test.jsonl"
    given.write_text("".join(json.dumps({"text": x}) + "\n" for x in passages))
    bpe = reference / "data" / "gpt2_bpe"
    folder = prepare("lambada", tmp_path / "data", given, bpe_files=bpe)
    stored, direct = texts.of_data_set("lambada", tmp_path / "data", None), texts.of_file(given, "lambada", None)
    assert stored.documents == direct.documents == passages
    assert (stored.split, stored.words, stored.bytes) == ("test", 12, sum(len(x.encode()) for x in passages))
    tokenizer = Gpt2Tokenizer((bpe / "encoder.json").read_bytes())
    assert stored.tokens(tokenizer).tolist() == Corpus.open(folder).split("test")[:].tolist()
    assert (stored.tokens(tokenizer) == 50256).sum() == 3


def test_wikitext_from_a_folder_of_files(tmp_path: Path) -> None:
    for name in ("valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f" = {name} = \n" * 20)
    text = texts.of_file(tmp_path / "test.txt", "wikitext", None)
    assert (text.split, text.documents, text.lines) == ("test", [" = test = \n" * 20], True)
    with pytest.raises(DataError, match="expected a split val, got only test"):
        texts.of_file(tmp_path / "test.txt", "wikitext", "val")
    shutil.rmtree(tmp_path)


def test_a_sample_sees_as_many_tokens_as_the_network_has_positions() -> None:
    network = scrambled(model()).eval()
    prompt = list(range(40))
    made = list(sample(network, prompt, 5, 0.0, None, 0, PLACE))
    for at, token in enumerate(made, 40):
        logits, _ = network(torch.tensor([[*prompt, *made][at - 32 : at]]))
        assert int(logits[0, -1].argmax()) == token
