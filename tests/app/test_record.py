"""The record of a run: what is on the disk after each event, and what a reader makes of damage."""

import json
import math
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from mada_lab.errors import ConfigError
from mada_lab.records.run_record import RunRecord, read_run
from tests.app.synthetic_runs import make_run, manifest


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


def strict(text):
    return json.loads(text, parse_constant=refuse)


def lines(folder):
    return [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_manifest_is_there_before_the_first_row(tmp_path):
    RunRecord.create(tmp_path / "deep" / "run", {"seed": 3, "config": {"beta1": 0.9}})
    folder = tmp_path / "deep" / "run"
    assert strict((folder / "manifest.json").read_text()) == {
        "format_version": 1,
        "seed": 3,
        "config": {"beta1": 0.9},
    }
    assert lines(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "metrics.jsonl"]


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "summary.json"])
def test_a_folder_that_holds_a_run_is_refused_and_stays_as_it_is(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigError, match=rf"{name}; choose another folder"):
        RunRecord.create(tmp_path, {})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_an_out_dir_that_is_a_file_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out_dir .*file/run: expected a folder"):
        RunRecord.create(tmp_path / "file" / "run", {})


def test_a_row_is_on_the_disk_when_log_returns(tmp_path):
    record = RunRecord.create(tmp_path / "run", {})
    record.log({"step": 0, "train_loss": 10.9})
    assert lines(tmp_path / "run") == [{"step": 0, "train_loss": 10.9}]
    record.log({"step": 1, "train_loss": 0.1 + 0.2})
    assert lines(tmp_path / "run")[1]["train_loss"] == 0.1 + 0.2


def test_what_is_not_finite_is_null_wherever_it_is(tmp_path):
    record = RunRecord.create(tmp_path / "run", {"config": {"clip": math.inf}})
    record.log({"step": 0, "train_loss": math.nan, "coefficients": {"beta1": -math.inf}, "lr": np.float32("nan")})
    record.finish({"final_val_loss": math.nan, "history": [1.0, math.inf]})
    assert lines(tmp_path / "run") == [{"step": 0, "train_loss": None, "coefficients": {"beta1": None}, "lr": None}]
    assert strict((tmp_path / "run" / "summary.json").read_text()) == {"final_val_loss": None, "history": [1.0, None]}
    assert strict((tmp_path / "run" / "manifest.json").read_text())["config"] == {"clip": None}


def test_numbers_and_paths_become_plain_json(tmp_path):
    RunRecord.create(
        tmp_path, {"seed": np.int64(7), "lr": np.float32(0.5), "out": Path("runs/a"), "betas": (0.9, 0.95)}
    )
    written = strict((tmp_path / "manifest.json").read_text())
    assert written == {"format_version": 1, "seed": 7, "lr": 0.5, "out": "runs/a", "betas": [0.9, 0.95]}


def test_what_json_has_no_word_for_is_refused_before_anything_is_written(tmp_path):
    record = RunRecord.create(tmp_path, {})
    with pytest.raises(TypeError, match="got Decimal; convert it first"):
        record.log({"step": 0, "train_loss": Decimal(1)})
    assert lines(tmp_path) == []


def test_coefficients_per_group_get_flat_names(tmp_path):
    record = RunRecord.create(tmp_path, {})
    record.log({"step": 0, "coefficients": {"group 0": {"beta1": 0.9}, "group 1": {"beta1": 0.8}}})
    record.finish({"final_coefficients": {"group 0": {"beta1": 0.9}}})
    run = read_run(tmp_path)
    assert run.names("coefficients") == ["group 0.beta1", "group 1.beta1"]
    assert run.coefficient("group 1.beta1") == ([0], [0.8])
    assert run.final_coefficients() == {"group 0.beta1": 0.9}


def test_resume_drops_what_the_run_will_write_again(tmp_path):
    make_run(tmp_path / "run", steps=40, every=4)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 44, "train_lo')
    before = lines_until(tmp_path / "run", 20)
    record = RunRecord.resume(tmp_path / "run", 20)
    assert lines(tmp_path / "run") == before
    assert not (tmp_path / "run" / "summary.json").exists()
    record.log({"step": 24})
    assert [row["step"] for row in lines(tmp_path / "run")] == [0, 4, 8, 12, 16, 20, 24]


def lines_until(folder, step):
    whole = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    return [row for row in map(strict, whole) if row["step"] <= step]


def test_resume_drops_a_torn_line_of_an_earlier_step_too(tmp_path):
    RunRecord.create(tmp_path, {}).log({"step": 0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')
    RunRecord.resume(tmp_path, 5).log({"step": 6})
    assert lines(tmp_path) == [{"step": 0}, {"step": 6}]


def test_resume_of_a_damaged_record_changes_nothing(tmp_path):
    make_run(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("garbage\n" + path.read_text())
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(ConfigError, match=r"metrics.jsonl, line 1: expected a JSON object"):
        RunRecord.resume(tmp_path / "run", 20)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_reading_gives_back_what_was_written(tmp_path):
    run = read_run(make_run(tmp_path / "mada", steps=40, every=4, evaluate=20))
    assert (run.name, run.folder, run.manifest["commit"]) == ("mada", tmp_path / "mada", manifest()["commit"])
    assert run.series("tokens")[1][:2] == [0.0, 49_152.0]
    assert run.series("val_loss")[0] == [0, 20, 40]
    assert run.coefficient("rho")[1][0] == 0.6
    assert run.coefficient("rho")[1][-1] == pytest.approx(0.25)
    assert run.hypergradient("gamma")[0] == list(range(0, 41, 4))
    assert run.initial_coefficients()["beta1"] == 0.9
    assert run.final_coefficients()["beta1"] == pytest.approx(0.93)
    assert run.series("nothing") == run.coefficient("nothing") == ([], [])


def test_the_initial_coefficients_of_the_manifest_come_before_a_later_first_row(tmp_path):
    record = RunRecord.create(tmp_path, {"initial_coefficients": {"group 0": {"beta1": 0.9}}})
    record.log({"step": 50, "coefficients": {"group 0": {"beta1": 0.95}}})
    assert read_run(tmp_path).initial_coefficients() == {"group 0.beta1": 0.9}


def test_the_name_is_the_folders_even_for_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(make_run(tmp_path / "mada"))
    assert read_run(Path(".")).name == "mada"


def test_null_reads_as_nan_and_absence_as_no_point(tmp_path):
    record = RunRecord.create(tmp_path, {})
    for row in ({"step": 0, "val_loss": 3.0}, {"step": 1}, {"step": 2, "val_loss": math.nan, "coefficients": {}}):
        record.log(row)
    steps, values = read_run(tmp_path).series("val_loss")
    assert steps == [0, 2]
    assert values[0] == 3.0
    assert math.isnan(values[1])


@pytest.mark.parametrize("torn", ['{"step": 44, "train_lo', "{", '{"step": 44, "name": "\udcc3', "\0\0\0\0"])
def test_a_killed_run_can_be_read(tmp_path, torn):
    make_run(tmp_path / "run", finish=False)
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    run = read_run(tmp_path / "run")
    assert run.summary is None
    assert run.rows[-1]["step"] == 40
    assert run.final_coefficients()["beta1"] == pytest.approx(0.93)


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path):
    RunRecord.create(tmp_path, {})
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}')
    assert [row["step"] for row in read_run(tmp_path).rows] == [0, 1]


def test_a_run_before_its_first_row_can_be_read(tmp_path):
    RunRecord.create(tmp_path, {})
    run = read_run(tmp_path)
    assert (run.rows, run.initial_coefficients(), run.series("train_loss")) == ([], {}, ([], []))


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl"])
def test_a_missing_file_is_named(tmp_path, name):
    (make_run(tmp_path / "run") / name).unlink()
    with pytest.raises(ConfigError, match=rf"run/{name}: expected a file that can be read, got No such file"):
        read_run(tmp_path / "run")


MALFORMED = [
    ("manifest.json", "{", r"manifest.json: expected a JSON object"),
    ("manifest.json", "[]", r"manifest.json: expected a JSON object, got \[\]"),
    ("manifest.json", '{"format_version": 2}', r"expected format_version 1, got 2; read it with the version"),
    ("manifest.json", '{"format_version": 1, "config": []}', r"manifest.json, config: expected an object"),
    ("metrics.jsonl", '{"step": 0}\n{"st\n{"step": 2}\n', r"metrics.jsonl, line 2: expected a JSON object"),
    ("metrics.jsonl", '{"step": NaN}\n{"step": 2}\n', r"line 1: .* got NaN, which is not JSON"),
    ("metrics.jsonl", '{"step": 0.5}\n', r"line 1: expected an object with an integer step"),
    ("metrics.jsonl", '{"step": true}\n', r"line 1: expected an object with an integer step"),
    ("metrics.jsonl", '{"step": 0, "train_loss": "low"}\n', r"line 1, train_loss: expected a number or null"),
    ("metrics.jsonl", '{"step": 0, "coefficients": {"c": {}}}\n', r"line 1, coefficients: expected {name: number}"),
    ("summary.json", "", r"summary.json: expected a JSON object"),
    ("summary.json", '{"final_val_loss": "x"}', r"summary.json, final_val_loss: expected a number or null, got 'x'"),
    ("summary.json", '{"final_coefficients": 3}', r"summary.json, final_coefficients: expected {name: number}, got 3"),
    ("summary.json", '{"a":' * 100_000, r"summary.json: expected a JSON object, got objects nested too deep"),
]


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED)
def test_a_malformed_file_is_named_with_what_is_wrong(tmp_path, name, content, message):
    (make_run(tmp_path / "run") / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_run(tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 250


@pytest.mark.parametrize("module", ["mada_lab.records.run_record", "mada_lab.reports.report"])
def test_torch_is_not_needed(module):
    code = f"import sys, {module}; assert 'torch' not in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
