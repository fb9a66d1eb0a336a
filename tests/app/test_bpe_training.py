"""From a text to a report with GPT-2's tokenizer: vocabulary of 50,257, all by the command line.

Catches: a vocabulary size that isn't the sidecar's, a data set that changed between a save and its resumption.
"""

import json
from pathlib import Path

import pytest

from mada_lab.checkpoints.checkpoint import load_newest
from tests.app.commands import mada_lab
from tests.app.data.conftest import digest
from tests.app.test_cli import QUICK


@pytest.fixture
def prepared(tmp_path: Path, reference: Path) -> Path:
    """The data set `wikitext` in the folder `data`."""
    source, bpe = reference / "data" / "wikitext2", reference / "data" / "gpt2_bpe"
    run = mada_lab("data", "prepare", "wikitext", f"--from-file={source}", f"--bpe-files={bpe}", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "data set wikitext: data/wikitext\n"), run.stderr
    return tmp_path / "data" / "wikitext"


def test_wikitext_trains_and_is_reported(prepared: Path, tmp_path: Path) -> None:
    run = mada_lab("train", *QUICK, "--dataset=wikitext", "--out_dir=out", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    weights = load_newest(tmp_path / "out").tree["state"]["model"]
    assert 50_257 in {length for tensor in weights.values() for length in tensor.shape}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["data"]["name"] == "wikitext"
    assert sorted(manifest["data"]["sha256"]) == ["test", "train", "val"]
    first = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["val_loss"] == pytest.approx(10.82, abs=0.1), "ln 50257, before the first step"
    report = mada_lab("report", "out", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_data_that_changed_since_the_save_is_refused(prepared: Path, tmp_path: Path) -> None:
    """With name and size as before; once in the file alone, and once with a sidecar that vouches for it."""
    assert mada_lab("train", *QUICK, "--dataset=wikitext", "--out_dir=out", cwd=tmp_path).returncode == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
    content = bytearray((prepared / "train.bin").read_bytes())
    content[1000] ^= 1
    (prepared / "train.bin").write_bytes(content)
    resume = ["train", *QUICK, "--dataset=wikitext", "--out_dir=out", "--init_from=resume", "--max_iters=12"]
    run = mada_lab(*resume, cwd=tmp_path)
    assert run.returncode == 3, run.stderr
    assert "train.bin: expected sha256" in run.stderr
    meta = json.loads((prepared / "meta.json").read_text())
    meta["splits"]["train"]["sha256"] = digest(bytes(content))
    (prepared / "meta.json").write_text(json.dumps(meta))
    run = mada_lab(*resume, cwd=tmp_path)
    assert run.returncode == 4, run.stderr
    assert "expected the data that the run started with, got other content in" in run.stderr
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
