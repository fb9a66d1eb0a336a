"""The application needs a newer torch than the library, and says so.

Catches: a traceback out of an old torch, and a check that asks for another version than the package declares.
"""

import tomllib
from pathlib import Path

import pytest

from mada_lab import cli
from mada_lab.system.optional import OLDEST_TORCH

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_a_torch_that_is_too_old_is_named_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.8.1+cpu")
    with pytest.raises(SystemExit) as stop:
        cli.main(["train"])
    assert stop.value.code == 3
    assert capsys.readouterr().err == (
        'error: package torch: expected 2.9 or newer, got 2.8.1+cpu; run `pip install --upgrade "mada-optim[lab]"`\n'
    )


def test_the_check_asks_for_what_is_declared():
    assert f"torch>={'.'.join(map(str, OLDEST_TORCH))}" in PROJECT["optional-dependencies"]["lab"]
