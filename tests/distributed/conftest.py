"""Shared by the tests of several processes: a prepared data set."""

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    from mada_lab.data.prepare import prepare  # here, since the library's tests run without the application's packages

    folder = tmp_path_factory.mktemp("data")
    prepare("pydoc", folder)
    return folder
