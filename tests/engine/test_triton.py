"""The Triton engine without Triton. tests/triton (`make test-triton`) and tests/gpu test its kernels.

Catches: an engine that is asked for and silently missing, a reason that names something else, a table that is made anew
in each step, one that is freed while a captured graph reads it.
"""

import weakref

import pytest
import torch

from mada_optim import MADA, modes
from mada_optim.engines.triton import engine
from tests.problems import parameters


@pytest.fixture(autouse=True)
def anew():
    engine.fault.cache_clear()
    yield
    engine.fault.cache_clear()


def test_without_triton_the_reason_says_so(monkeypatch):
    monkeypatch.setattr(engine, "installed", lambda: False)
    with pytest.raises(ValueError, match="engine='triton': Triton is not installed"):
        MADA(parameters(), engine="triton")


def test_on_the_cpu_there_are_kernels_only_under_the_interpreter(monkeypatch):
    monkeypatch.setattr(engine, "installed", lambda: True)
    with pytest.raises(ValueError, match="Triton has no kernels for cpu"):
        MADA(parameters(), engine="triton")
    assert MADA(parameters()).engine != "triton"


def test_a_triton_that_fails_is_quoted(monkeypatch):
    def failing(source):
        raise RuntimeError("Failed to find C compiler.")

    for name, instead in {"installed": lambda: True, "interpreted": lambda: True, "module": failing}.items():
        monkeypatch.setattr(engine, name, instead)
    with pytest.raises(ValueError, match="Triton doesn't work here: Failed to find C compiler"):
        MADA(parameters(), engine="triton")


def test_the_table_of_chunks_is_made_once_for_the_same_sizes(monkeypatch):
    monkeypatch.setattr(engine, "CHUNK", 64)
    tables = engine.DeviceTables(torch.device("cpu"))
    table = tables.chunks([65, 0, 3])
    assert table.tolist() == [[0, 0], [0, 64], [2, 0]]
    assert tables.chunks([65, 0, 3]) is table
    assert tables.chunks([64, 0, 3]).tolist() == [[0, 0], [2, 0]]


@pytest.mark.parametrize("captured", [True, False], ids=["captured", "not captured"])
def test_a_table_that_a_captured_graph_reads_stays(captured, monkeypatch):
    monkeypatch.setattr(modes, "capturing", lambda device: captured)
    tables = engine.DeviceTables(torch.device("cpu"))
    table = weakref.ref(tables.get("rows", [1, 2], torch.int64))
    tables.get("rows", [3, 4], torch.int64)
    assert (table() is not None) == captured
