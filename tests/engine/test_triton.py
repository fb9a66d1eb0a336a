"""Where Triton's kernels can't be had. They themselves are tested in tests/triton (`make test-triton`) and tests/gpu.

Catches: an engine that is asked for and silently missing, a reason that names something else.
"""

import pytest

from mada_optim import MADA
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
