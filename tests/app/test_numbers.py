"""Numbers on a command line that are none, or out of every range: an error of one line, nothing on the disk changes."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from mada_lab import cli
from mada_lab.config import parsing
from mada_lab.config.declarations import declarations
from mada_lab.config.keys import TrainConfig, VisionConfig
from mada_lab.errors import ConfigError
from mada_lab.training.trainer import train
from tests.app.conftest import Silent

STRANGE = ("nan", "inf", "-inf", "-1", "0", "1e400", "1e-400", str(2**63), "9" * 5000, "1.5", "0x10", "none", " ", "")
#: What is allowed of these.
ALLOWED = {
    "--seed": {"0"},
    "--lr": {"1.5", str(2**63)},
    "--grace": {"1.5", str(2**63)},
    "--seeds": {"0"},
    "--map-seeds": {"0"},
    "--temperature": {"0", "1.5", str(2**63)},
}

OPTIONS = [
    *((["generate", "RUN"], x) for x in ("--temperature", "--top-k", "--tokens", "--seed")),
    *((["eval", "RUN"], x) for x in ("--stride", "--context")),
    *((["toy", "--out", "out"], x) for x in ("--lr", "--steps")),
    *((["sweep", "--search", "rho=0.1..0.5", "--out", "out"], x) for x in ("--trials", "--grace")),
    *((["compare", "--out", "out"], x) for x in ("--seeds", "--grace")),
    *(
        (["bench", "--quick", "--out", "out", "--data-dir", "nowhere"], x)
        for x in ("--seeds", "--map-seeds", "--trials", "--workers", "--grace", "--together")
    ),
    (["data", "prepare", "pydoc", "--data-dir", "out"], "--workers"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("numbers") / "run"
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "batch_size": 4, "eval_iters": 1}
    config = TrainConfig(out_dir=str(folder), data_dir=str(data_dir), max_iters=2, warmup_iters=1, **sizes)
    from mada_lab.data.corpus import Corpus

    train(replace(config, device="cpu", optimizer="adamw"), Corpus.open(data_dir / "pydoc"), Silent())
    return folder


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def fails(words, capsys):
    """The exit code of a command that fails, once its error is found to be one line."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    told = capsys.readouterr().err
    assert told.count("error: ") == told.count("\n") == 1, told
    assert len(told) < 6000
    return stop.value.code


@pytest.mark.parametrize(("words", "option"), OPTIONS, ids=lambda x: x if isinstance(x, str) else x[0])
def test_a_number_that_is_none_is_refused_in_one_line(tmp_path, monkeypatch, capsys, run, words, option):
    monkeypatch.chdir(tmp_path)
    words = [str(run) if word == "RUN" else word for word in words]
    before = files(tmp_path), files(run)
    for value in STRANGE:
        if value not in ALLOWED.get(option, set()):
            assert fails([*words, f"{option}={value}"], capsys) == 2, value
    assert (files(tmp_path), files(run)) == before


TEMPERATURES = ["1e-40", "1e-45", "1e-300", "1e-6", "-0.5", "1e999", "5e-324", "0.0000000001"]


@pytest.mark.parametrize("value", TEMPERATURES)
def test_a_temperature_that_numbers_have_no_room_for_is_refused(capsys, run, value):
    assert fails(["generate", str(run), f"--temperature={value}"], capsys) == 2


@pytest.mark.parametrize("value", ["0", "0.0", "0e5", "-0", "1e-5", "1e30", "1e300"])
def test_every_other_temperature_gives_text(capsys, run, value):
    cli.main(["generate", str(run), "--tokens=5", f"--temperature={value}", "--prompt=the"])
    assert capsys.readouterr().out.startswith("the")


REFUSED = [
    (["--temperature=0", "--top-k=3"], 2),
    (["--temperature=0", "--seed=3"], 2),
    (["--top-k=100000"], 2),
    (["--prompt="], 2),
    (["--prompt=\udcff"], 2),
    (["--prompt=\u2603"], 3),  # not in the vocabulary
    (["--device=cuda:77"], 2),
    (["--data-dir=nowhere", "--bpe-files=nowhere", "--tokens=0"], 2),
]


@pytest.mark.parametrize(("words", "code"), REFUSED, ids=lambda x: str(x).encode("unicode_escape").decode())
def test_what_generate_refuses(capsys, run, words, code):
    assert fails(["generate", str(run), *words], capsys) == code


def test_a_prompt_longer_than_the_context_is_gone_on_with(capsys, run):
    cli.main(["generate", str(run), "--tokens=3", f"--prompt={'the ' * 50}"])
    assert capsys.readouterr().out.startswith("the " * 50)


@pytest.mark.parametrize("kind", [TrainConfig, VisionConfig])
def test_a_key_takes_no_number_out_of_every_range(kind):
    for key in declarations(kind):
        for value in (math.nan, math.inf, -math.inf, 2**63, -(2**63)):
            try:
                parsing.from_values({key: value}, "here", kind)
            except ConfigError as error:
                assert key in str(error)  # noqa: PT017 most are refused by their type, some aren't at all
            else:
                assert math.isfinite(value), (key, value)
                assert type(getattr(kind(), key)) is not int, (key, value)


@pytest.mark.parametrize(
    "word", ["--learning_rate=nan", "--min_lr=1e400", f"--n_layer={2**63}", "--seed=", "--seed=-1"]
)
def test_a_key_of_a_command_line_takes_no_number_that_is_none(capsys, word):
    assert fails(["train", word], capsys) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--grid", "learning_rate=nan"],
        ["--grid", "learning_rate=1e400"],
        ["--grid", f"n_layer={2**63}"],
        ["--search", "learning_rate=nan..1", "--trials=2"],
        ["--search", "learning_rate=0..1:log", "--trials=2"],
        ["--search", "learning_rate=1..inf", "--trials=2"],
        ["--search", "n_layer=4..2", "--trials=2"],
    ],
    ids=" ".join,
)
def test_a_sweep_over_no_numbers_is_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert fails(["sweep", "--out", "out", *words], capsys) == 2
    assert files(tmp_path) == {}


@pytest.mark.parametrize("word", ["--n_embd=2000000000"])  # more bytes than a number has room for
def test_a_network_that_no_memory_holds_is_refused_in_one_line(tmp_path, data_dir, word):
    """The progress bar of the run comes before, so the error is the last line."""
    words = ["train", word, "--n_head=1", "--n_layer=1", f"--data_dir={data_dir}", "--device=cpu"]
    run = subprocess.run([sys.executable, "-m", "mada_lab", *words], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode in (2, 3), run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in run.stderr
    assert files(tmp_path) == {}
