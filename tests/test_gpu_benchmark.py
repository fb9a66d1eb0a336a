"""benchmarks/gpu.py without a GPU: its parts on the CPU, in small.

Catches: a part whose command has another argument by now, a part that fails or hangs and takes the others with it, a
process that lives on, results that are lost, a page without its markers.
"""

import json
import os
import sys

import pytest

from benchmarks import gpu
from benchmarks.gpu import BEGIN, END, PAGE, PARTS, Part, Setting, page_section, run_parts, write_page

SMALL = Setting(device="cpu", tiny=True)
#: Each kind of part once; others differ in a model's size alone.
KINDS = ("device", "tests", "step, 3.2M", "polar factors", "training step, 124M bf16", "graph, 3.2M", "mada-lab train")


def part(name, *programs, minutes=1.0, **options):
    return Part(
        name, minutes, lambda setting, folder: [[sys.executable, "-c", x, str(folder)] for x in programs], **options
    )


WRITES = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'rows.json').write_text('[{\"a\": 1}]')"
HANGS = (
    "import os, pathlib, sys, time; (pathlib.Path(sys.argv[1]) / 'pid').write_text(str(os.getpid())); time.sleep(600)"
)


def states(results):
    return {x["name"]: x["state"] for x in results["parts"]}


@pytest.mark.timeout(600)
def test_every_kind_of_part_runs(tmp_path):
    results = run_parts([x for x in PARTS if x.name in KINDS], SMALL, tmp_path, minutes=9)
    problems = [x for x in results["parts"] if x["state"] not in ("ok", "skipped")]
    assert problems == []
    assert states(results) == {name: "skipped" if name.startswith("graph") else "ok" for name in KINDS}
    assert all(x["rows"] for x in results["parts"] if x["state"] == "ok")
    assert {row["outcome"] for row in results["parts"][1]["rows"]} == {"passed"}
    section = page_section(results)
    assert "**mada-lab train**" in section
    assert "| MADA, all six learned |" in section


def test_a_part_that_fails_or_runs_out_of_time_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 0.0)
    parts = [
        part("fails", "print('so it is'); 1 / 0"),
        part("hangs", WRITES, HANGS, minutes=0.04, at_once=True),
        part("is silent", "pass"),
        part("lacks", WRITES, needs=("no_such_package",)),
        part("works", WRITES),
    ]
    results = run_parts(parts, SMALL, tmp_path, minutes=5)
    expected = {"fails": "failed", "hangs": "out of time", "is silent": "failed", "lacks": "skipped", "works": "ok"}
    assert states(results) == expected
    fails, hangs, _, lacks, works = results["parts"]
    assert "ZeroDivisionError" in fails["reason"]
    assert "no_such_package" in lacks["reason"]
    assert hangs["rows"] == works["rows"] == [{"a": 1}]  # what was left before its end counts
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "hangs" / "pid").read_text()), 0)


def test_parts_for_which_no_time_is_left_are_not_begun(tmp_path):
    results = run_parts([part("first", WRITES), part("second", WRITES)], SMALL, tmp_path, minutes=0.0)
    assert [(x["state"], x["reason"]) for x in results["parts"]] == [("out of time", "not begun")] * 2


def test_the_parts_fit_into_the_time():
    assert sum(x.minutes for x in PARTS) <= 9.5
    assert len({x.name for x in PARTS}) == len(PARTS)


def test_the_tables_go_between_the_markers(tmp_path):
    row = {"optimizer": "Adam", "ns/parameter": [1.0, 1.25, 2.0], "fault": None, "count": 3}
    failed = {"test": "test_x", "outcome": "failed", "seconds": 1, "message": "assert 1 == 2\nmore"}
    parts = [
        {"name": "tests", "state": "failed", "reason": "1 failed", "seconds": 2, "rows": [failed]},
        {"name": "step", "state": "ok", "reason": "", "seconds": 2, "rows": [row]},
    ]
    section = page_section({"commit": "abc", "seconds": 4.0, "parts": parts})
    assert "| Adam | 1.25 [1, 2] |  | 3 |" in section
    assert "| `test_x` | 1 | assert 1 == 2 |" in section
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    for _ in range(2):
        write_page(section, page)
    assert page.read_text() == f"before\n{BEGIN}\n{section.strip()}\n\n{END}after\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="gpu: begin"):
        write_page(section, page)
    assert BEGIN in PAGE.read_text()
