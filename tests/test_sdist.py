"""The source distribution: all that a checkout has, and tests that pass from it alone.

`make test-sdist` runs the whole suite from an unpacked one; here are two files of it, in a folder with nothing beside.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "configs", "docs", "examples", "scripts", "src", "tests")
SOME = ("tests/test_public_api.py", "tests/contract/test_released_traces.py")


def sources(root):
    """Paths of all files of these folders, but for what Python and tools leave there."""
    found = (path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts and path.suffix != ".pyc"}


def test_it_is_complete_and_its_tests_pass_elsewhere(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, timeout=120, capture_output=True)
    (archive,) = tmp_path.glob("mada_optim-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (root,) = (tmp_path / "unpacked").iterdir()
    assert sources(root) == sources(ROOT)
    assert {"Makefile", "constraints.txt", "pyproject.toml"} <= {path.name for path in root.iterdir()}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *SOME],
        **{"cwd": root, "capture_output": True, "text": True, "timeout": 200},
        env={**os.environ, "PYTHONPATH": str(root / "src")},
    )
    assert run.returncode == 0, run.stdout
    assert " skipped" in run.stdout  # the reference material is not beside it
