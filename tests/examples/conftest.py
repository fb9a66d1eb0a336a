"""Examples are run as they stand: imported by path, with their folder on the path as it is for a script."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mada_optim import MADA

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Gives an example's module by name."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def largest_move(coefficients):
    """How far the farthest coefficient has come from where MADA starts."""
    start = MADA([torch.nn.Parameter(torch.ones(1))]).coefficients()
    return max(abs(x - start[q]) for q, x in coefficients.items() if q in start)


def fell(losses):
    """Whether the last ten losses are less than half of the first ten."""
    return sum(losses[-10:]) < 0.5 * sum(losses[:10])
