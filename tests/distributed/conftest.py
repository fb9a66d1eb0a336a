"""Shared by the tests of several processes: a prepared data set."""

from tests.app.conftest import data_dir

__all__ = ["data_dir"]
