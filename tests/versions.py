"""Runs the tests of `mada_optim` with the oldest and the newest torch, each in an environment of its own.

python -m tests.versions [--torch VERSION ...] [--fresh] [--write]

The oldest version is the one that pyproject.toml declares, the newest is the newest release that pip finds for this
Python. `make test-versions` runs it, and writes the results into docs/inside/versions.md. The environments and the
reports, with the reason of each skipped test, lie in out/versions.
"""

import argparse
import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out" / "versions"
PAGE = ROOT / "docs" / "inside" / "versions.md"
BEGIN, END = "<!-- versions: begin -->\n", "<!-- versions: end -->\n"
HEAD = (
    "| torch | Python | passed | failed | skipped | commit | date |",
    "|---|---|---|---|---|---|---|",
)
DISTRIBUTION = "gradient-descent-the-ultimate-optimizer"  # an oracle of hypergradients, which needs torch alone
TOOLS = (DISTRIBUTION, "expecttest", "hypothesis", "numpy", "pytest", "pytest-timeout", "pytest-xdist")

#: What the library's tests may import. Triton comes with torch; where it doesn't, its tests are skipped.
MODULES = sys.stdlib_module_names | {"mada_optim", "torch", "triton", "_pytest", *(x.replace("-", "_") for x in TOOLS)}
HELPERS = ("tests", "benchmarks")  # packages of this repository whose imports count as the test's own

#: Tests that import no more than that, but run other programs, or read this repository.
OTHERS = "examples test_adding.py test_architecture.py test_benchmarks.py test_sdist.py test_slurm.py "
OTHERS += "test_typing.py test_wheel.py"


def suite():
    """The library's tests: files that import nothing but MODULES, without OTHERS.

    Imports count at any depth of a test and of the helpers that it imports; of a conftest, those at its head.
    """
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    return [path for path in tests if not {*path.parts} & {*OTHERS.split()} and _is_of_library(path)]


def _is_of_library(path):
    conftests = [folder / "conftest.py" for folder in path.parents if folder.is_relative_to(ROOT / "tests")]
    needed = _needed(path).union(*(_needed(file, head=True) for file in conftests if file.exists()))
    return {name.partition(".")[0] for name in needed} <= MODULES


def _needed(path, head=False):
    """Full names of what a file and its helpers import from elsewhere."""
    ahead, seen, needed = [path], {path}, set()
    while ahead:
        for name in _imports(ahead.pop(), head):
            if name.partition(".")[0] not in HELPERS:
                needed.add(name)
            elif (helper := _file(name)) and helper not in seen:
                seen.add(helper)
                ahead.append(helper)
    return needed


@functools.cache
def _imports(path, head):
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if head else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def _file(name):
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    return path if path.exists() else None


def declared():
    """The oldest torch that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (oldest,) = re.findall(r"^torch>=([\d.]+)$", "\n".join(project["dependencies"]), flags=re.MULTILINE)
    return oldest


def environment(requirement, fresh):
    """The Python of an environment with torch as required, the tools of constraints.txt, and this library."""
    folder = OUT / f"{re.sub('[^a-z0-9.]', '', requirement)}-python{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    if fresh or not python.exists():
        venv.create(folder, with_pip=True, clear=True)
    pinned = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x.partition("==")[0] in TOOLS]
    (folder / "constraints.txt").write_text("\n".join([*pinned, ""]))
    # Instead of a constraint of this machine's own, which may hold back torch
    environ = os.environ | {"PIP_CONSTRAINT": str(folder / "constraints.txt")}
    for names in ([requirement], [*TOOLS, "--editable", str(ROOT)]):
        install = [python, "-m", "pip", "install", "--quiet", "--upgrade-strategy=only-if-needed"]
        subprocess.run([*install, *(["--upgrade"] if names == [requirement] else []), *names], check=True, env=environ)
    return python


def tested(python):
    """One row of the table; the report is printed, and lies beside the environment."""
    report = OUT / f"{python.parents[1].name}.xml"
    options = ["-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", f"--junitxml={report}"]
    subprocess.run(
        [python, "-m", "pytest", *options, *suite()], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = sum(1 for x in cases if x.find("failure") is not None or x.find("error") is not None)
    reasons = Counter(x.find("skipped").get("message") for x in cases if x.find("skipped") is not None)
    for reason, times in reasons.most_common():
        print(f"  {times} skipped: {reason}")
    return *_versions(python), len(cases) - failed - reasons.total(), failed, reasons.total(), _commit(), _today()


def _versions(python):
    ask = "import platform, torch; print(torch.__version__, platform.python_version())"
    return subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.split()


def _commit():
    ask = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(ask, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _today():
    return datetime.now(UTC).date().isoformat()


def table(rows):
    """Lines of the table, by versions of torch and Python."""

    def order(row):
        return [[int(number) for number in re.findall(r"\d+", version.partition("+")[0])] for version in row[:2]]

    return [*HEAD, *("| " + " | ".join(map(str, row)) + " |" for row in sorted(rows, key=order))]


def merged(page, rows):
    """The page with these rows, each in the place of the one with its versions of torch and Python."""
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    kept = [tuple(line.strip("| ").split(" | ")) for line in old.splitlines()[len(HEAD) :]]
    by_versions = {row[:2]: row for row in [*kept, *(tuple(map(str, row)) for row in rows)]}
    return before + BEGIN + "\n".join(table(by_versions.values())) + "\n" + END + after


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", nargs="+", help="versions of torch, instead of the oldest and the newest")
    parser.add_argument("--fresh", action="store_true", help="makes the environments anew")
    parser.add_argument("--write", action="store_true", help=f"writes the results into {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    versions = arguments.torch or [declared(), None]
    rows = []
    for version in versions:
        python = environment(f"torch=={version}" if version else "torch", arguments.fresh)
        rows.append(tested(python))
        print("\n".join(table(rows)))
        if arguments.write:
            PAGE.write_text(merged(PAGE.read_text(), rows))
    sys.exit(any(failed for _, _, _, failed, *_ in rows))


if __name__ == "__main__":
    main()
