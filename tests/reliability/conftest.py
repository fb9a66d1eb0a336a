"""Shared by the tests of reliability: a prepared data set, and a configuration of a run of a second."""

import tempfile
from pathlib import Path

import pytest

from tests.app.conftest import corpus, data_dir, tiny

__all__ = ["corpus", "data_dir", "tiny"]

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path):
    """A folder in memory, if there is such a place: these tests flush files thousands of times."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as folder:
        yield Path(folder)
