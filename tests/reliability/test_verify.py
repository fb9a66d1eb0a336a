"""`mada-lab verify`: what is whole, what is damaged, and the exit code that says so.

Catches: damage that it doesn't see, a complaint about a good run, a change of what it looks at.
"""

import shutil

import pytest
import torch

from mada_lab import cli
from mada_lab.checkpoints.checkpoint import Checkpoint, load, save
from mada_lab.checkpoints.folder import path_of
from mada_lab.training.trainer import train
from tests.app.conftest import Silent, fitted


@pytest.fixture
def run(tiny, corpus, tmp_path):
    train(tiny, corpus, Silent())
    return tmp_path / "run"


def verify(capsys, *words):
    """Exit code, lines of output, error."""
    code = 0
    try:
        cli.main(["verify", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_a_good_run_is_good_and_left_as_it_is(run, capsys, deep):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, lines, err = verify(capsys, run, *deep)
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in lines] == ["good  record", "good  step_00000020", "good  step_00000030"]
    assert lines[0] == "good  record: 31 rows, up to step 30; ended; resumed 0 times"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "mada_released"])
def test_a_deep_look_knows_every_optimizer(tiny, corpus, tmp_path, capsys, optimizer):
    train(fitted(tiny, optimizer=optimizer, max_iters=4, warmup_iters=1, bias=True), corpus, Silent())
    assert verify(capsys, tmp_path / "run", "--deep")[0] == 0


def test_damage_is_named(run, capsys):
    (path_of(run, 20) / "values.json").write_text("{}")
    with open(run / "metrics.jsonl", "a") as file:
        file.write("garbage\n{}\n")
    (path_of(run, 40).with_name("step_00000040.part")).mkdir()
    (run / "checkpoints" / "notes\nof mine").mkdir()
    code, lines, err = verify(capsys, run)
    assert code == 4
    assert "metrics.jsonl, line 32" in lines[0]
    assert "step_00000020/values.json" in lines[1]
    assert [line[:4] for line in lines] == ["BAD ", "BAD ", "good", "good", "good"]
    assert "left by a process that was killed" in lines[3]
    assert "got 2 damaged" in err.splitlines()[-1]


def test_one_checkpoint(run, capsys):
    assert verify(capsys, path_of(run, 20))[:2] == (0, verify(capsys, run)[1][1:2])
    (path_of(run, 20) / "tensors.safetensors").unlink()
    assert verify(capsys, path_of(run, 20))[0] == 4


def changed(run, change):
    """The newest checkpoint with another tree, sealed as if it had been saved so."""
    saved = load(path_of(run, 30))
    change(saved.tree)
    shutil.rmtree(path_of(run, 30))
    save(run, Checkpoint(30, saved.tree), keep=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["state"]["model"]["wpe.weight"].fill_(float("nan")), "expected finite numbers"),
        (lambda tree: tree["state"]["model"].pop("ln_f.weight"), "model: expected wte.weight, wpe.weight"),
        (lambda tree: tree["config"].update(n_embd=32), "expected sizes of at most"),
        (lambda tree: tree["config"].update(n_head=1.5), "key n_head: expected a whole number"),
        (lambda tree: tree["config"].update(optimizer="adamw"), "optimizer group: expected"),
        (lambda tree: tree["config"].update(optimizer="hyperadam"), "optimizer group: expected"),
        (lambda tree: tree["state"]["model"]["wpe.weight"].add_(1), "digest: expected"),
        (lambda tree: tree["state"]["optimizer"]["param_groups"][0]["beta1"].fill_(2.0), "coefficient beta1"),
        (lambda tree: tree["state"]["optimizer"]["state"][0].update(m=torch.zeros(7, 7)), "optimizer 0 m"),
    ],
    ids=["nan", "missing", "sizes", "type", "adamw", "hyperadam", "digest", "coefficient", "slot"],
)
def test_a_deep_look_finds_what_a_digest_of_bytes_does_not(run, capsys, change, message):
    changed(run, change)
    assert verify(capsys, run)[0] == 0
    code, lines, _ = verify(capsys, run, "--deep")
    assert code == 4
    assert message in lines[2]


@pytest.mark.parametrize("words", [["nowhere"], [], ["a", "b"], ["--shallow"]])
def test_what_is_no_run_is_a_wrong_command(capsys, words):
    assert verify(capsys, *words)[0] == 2
