"""Shared by all tests: one thread per worker, and where the reference material lies, if it is there."""

from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
REFERENCE = REPOSITORY.parent / "shared"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def reference() -> Path:
    """The folder of reference traces and data, which the project does not ship."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference material is not beside this checkout")
    return REFERENCE
