"""Options: tests shared by several processes, a line of JSON for each that has run, and one of each kind.

benchmarks/gpu.py uses the first two, and `make test-triton` the third, for a rehearsal on the CPU.
"""

import json
from pathlib import Path

import pytest

from tests.gpu.device import ON_CUDA

EMPTY = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_addoption(parser):
    parser.addoption("--share", default="1/1", help="I/N: every N-th of the tests here, from the I-th on")
    parser.addoption("--record", type=Path, help="a file that gets a line of JSON per test, as soon as it has run")
    parser.addoption("--once", action="store_true", help="each test with its first parameters alone")


def pytest_configure(config):
    if path := config.getoption("record", None):
        config.pluginmanager.register(Record(path))


def pytest_collection_modifyitems(config, items):
    if config.getoption("once", False):
        items[:] = {(item.path, item.originalname): item for item in reversed(items)}.values()
    if not ON_CUDA:
        for item in items:  # numpy's, in Triton's interpreter, of lanes that are masked out
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
    first, count = map(int, config.getoption("share", "1/1").split("/"))
    items[:] = items[first - 1 :: count]


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == EMPTY and session.config.getoption("share", "1/1") != "1/1":
        session.exitstatus = pytest.ExitCode.OK  # more processes than tests


class Record:
    def __init__(self, path):
        self._path = path

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            message = "" if report.passed else str(report.longrepr)[-2000:]
            crash = getattr(report.longrepr, "reprcrash", None)
            message = f"{crash.message}\n{message}" if crash else message
            row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
            with self._path.open("a") as file:
                file.write(json.dumps({**row, "message": message}) + "\n")
