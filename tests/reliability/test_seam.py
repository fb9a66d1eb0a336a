"""The seam to the disk: everything that changes a disk goes through `mada_lab.system.files`.

Catches: a file written past it, which no fault injection would reach.
"""

import ast
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.system import files
from tests.reliability import runs
from tests.reliability.faults import FaultyOs

SOURCES = sorted((Path(__file__).parents[2] / "src" / "mada_lab").rglob("*.py"))
CALLS = {"write_text", "write_bytes", "mkdir", "makedirs", "unlink", "rmtree", "rmdir", "touch", "replace", "rename"}
CALLS |= {"move", "copy", "copyfile", "symlink_to", "truncate", "tofile", "save_file"}
#: What these names are, besides changes of a disk: methods of strings and tensors, dataclasses.replace.
HARMLESS = {("replace", 2), ("replace", 3), ("copy", 0), ("copy", 1)}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "files.py"], ids=lambda path: path.name)
def test_no_other_module_changes_a_disk(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        through_the_seam = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "files"
        if name in CALLS and isinstance(node.func, ast.Attribute) and not through_the_seam:
            assert (name, len(node.args)) in HARMLESS, f"line {node.lineno}: {name}"
        if name == "open" and isinstance(node.func, ast.Name):
            mode = node.args[1].value if len(node.args) > 1 else "r"
            assert not set(mode) & set("wax+"), f"line {node.lineno}: open"


EVENTS = {"os.rename": ("rename", "replace"), "os.remove": ("unlink",), "os.mkdir": ("mkdir",), "os.rmdir": ("rmdir",)}
EVENTS |= {"os.truncate": ("ftruncate",), "open": ("open",)}


def test_a_run_changes_the_disk_through_the_seam_alone(tmp_path, data_dir):
    """Python's own audit of what a run does, against what the injector saw of it."""
    short = replace(runs.TINY, max_iters=12, checkpoint_interval=4, keep_checkpoints=1)
    config = replace(short, data_dir=str(data_dir), out_dir=str(tmp_path / "run"))
    assert runs.in_child(audited, config, tmp_path / "counts") == 0
    audit, injector = json.loads((tmp_path / "counts").read_text())
    assert audit == injector
    assert audit["open"] > 10
    assert audit["os.rmdir"] == 2


def audited(config, counts):
    seen = dict.fromkeys(EVENTS, 0)

    def hook(event, arguments):
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if event in EVENTS and writes and str(arguments[0]).startswith(config.out_dir):
            seen[event] += 1

    sys.addaudithook(hook)
    files.os = injector = FaultyOs()
    runs.train(config)
    names = [name for name, _ in injector.changes]
    injected = {event: sum(names.count(name) for name in ours) for event, ours in EVENTS.items()}
    counts.write_text(json.dumps([seen, injected]))
