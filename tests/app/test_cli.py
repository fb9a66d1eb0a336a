"""The command as a user types it, in its own process: output, exit codes, one line per error."""

import subprocess
import sys

import pytest


def mada_lab(*arguments, cwd):
    command = [sys.executable, "-m", "mada_lab", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


TINY = "--n_layer=1 --n_embd=16 --n_head=2 --block_size=16 --batch_size=2 --max_iters=8 --warmup_iters=2".split()
QUICK = [*TINY, "--eval_interval=4", "--eval_iters=2", "--log_interval=2", "--hyper_start=2", "--device=cpu"]


def test_train_resume_and_report(tmp_path):
    """The default data set is prepared by itself, and a run ends by naming its folder."""
    run = mada_lab("train", *QUICK, "--out_dir=out/a b", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "automuon: final validation loss" in run.stdout
    assert " lr " in run.stderr
    assert "beta1" not in run.stderr
    assert (tmp_path / "data" / "pydoc" / "meta.json").exists()
    more = mada_lab("train", *QUICK, "--out_dir=out/a b", "--init_from=resume", "--max_iters=12", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "after 12 steps" in more.stdout
    baseline = mada_lab("train", *QUICK[:-2], "--out_dir=out/adamw", "--optimizer=adamw", cwd=tmp_path)
    assert baseline.returncode == 0, baseline.stderr
    report = mada_lab("report", "out/a b", "out/adamw", "--out=out/report.html", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert str(tmp_path / "out" / "report.html") in report.stdout
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


REFUSED = [
    (["train", "--lerning_rate=1"], 2, "did you mean 'learning_rate"),
    (["train", "--optimizer=adamm"], 2, "did you mean 'adam"),
    (
        ["train", "--optimizer=adamw", "--rho=0.5"],
        2,
        "key rho: expected one of the keys that it has (beta1, beta2, eps)",
    ),
    (["train", "--dataset=shakespear_char"], 2, "did you mean 'shakespeare_char'"),
    (["train", "--device=cuda:77"], 2, "in key device"),
    (["train", "--init_from=resume", "--out_dir=nowhere"], 4, "expected one to resume from, got none"),
    (["data", "prepare"], 2, "expected the name of one data set"),
    (["data", "prepare", "pydoc", "--form-file=x"], 2, "expected one of --bpe-files, --data-dir, --from-file"),
    (["data", "prepare", "pydoc", "--tokenizer=bpe"], 2, "expected char or gpt2, got bpe"),
    (["data", "prepare", "pydoc", "--workers=0"], 2, "option --workers: expected a whole number in [1, 1024], got 0"),
    (["data", "prepare", "wikitext", "--from-file=missing", "--bpe-files=."], 3, "encoder.json"),
    (["data", "prepare", "cifar10", "--from-file=missing.npz"], 3, "missing.npz"),
    (["train", "--dataset=openwebtext"], 3, "run `mada-lab data prepare openwebtext` first"),
    (["train", "--dataset=digits"], 2, "expected one of text, got digits"),
    (["data", "prepare", "shakespeare_char", "--from-file=missing.txt"], 3, "missing.txt"),
    (["report"], 2, "expected one run folder"),
    (["report", "missing"], 2, "missing"),
    (["verify", "missing"], 2, "expected a run folder or a checkpoint"),
    (["tarin"], 2, "expected one of data prepare, train, report, verify"),
    (["train", "--beta2=0.9", "--dataset=openwebtext"], 2, "optimizer automuon, in key beta2: expected at least 0.99"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"), REFUSED, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_errors_are_one_line_with_their_code(arguments, code, message, tmp_path):
    run = mada_lab(*arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    lines = run.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert "Traceback" not in run.stderr
    assert not [p for p in tmp_path.iterdir() if p.name not in ("data",)]


def test_debug_shows_the_traceback(tmp_path):
    run = mada_lab("report", "missing", "--debug", cwd=tmp_path)
    assert "Traceback" in run.stderr


def test_help(tmp_path):
    run = mada_lab(cwd=tmp_path)
    assert run.returncode == 0
    assert "data prepare" in run.stdout
