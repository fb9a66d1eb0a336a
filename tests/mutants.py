"""How much the tests notice: small faults put into the core one at a time, and whether a test fails.

python -m tests.mutants [--number 60] [--seed 0] [--only 3 7 ...] [--tests FOLDER] [--about] [--limit SECONDS]

A mutant is the sources with one operator, comparison, number, `not` or returned value changed; a sample of them is
drawn from CORE. For each the tests of SUITES run until one fails, those first that are about the file that was changed.
`--only` runs some of the sample, by number, and `--tests` the tests of another checkout, so that two suites can be
compared on the mutants that one of them let live. A mutant that no test could tell from the sources counts as alive.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mada_optim"
CORE = "rules learning graph stepping hyper_optimizer.py beta_guard.py layouts.py state_dicts.py".split()
SUITES = "contract gradient numerics engine".split()

#: By what a changed path begins with, the tests that are about it.
FIRST = {
    "rules": "contract/test_corners gradient/test_sensitivity contract/test_released_traces contract/test_matrices",
    "learning": "contract/test_learning contract/test_learner contract/test_horizon contract/test_rise "
    "contract/test_fall contract/test_scopes contract/test_learners numerics/test_bounds",
    "graph": "gradient/test_sensitivity engine/test_specialize engine/test_cpu_kernel",
    "stepping": "contract/test_parameters contract/test_firewall contract/test_skipped_steps engine/test_steady "
    "contract/test_traps contract/test_observe",
    "hyper_optimizer": "contract/test_parameters contract/test_errors contract/test_observe contract/test_param_groups",
    "beta_guard": "contract/test_guard contract/test_applied_values contract/test_errors",
    "layouts": "contract/test_batched_matrices contract/test_matrices contract/test_hidden_names",
    "state_dicts": "contract/test_state_dict contract/test_load_by_name contract/test_tower_states",
}

SWAPS = {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.Is: ast.IsNot}
SWAPS |= {ast.In: ast.NotIn, ast.And: ast.Or}
SWAPS |= {b: a for a, b in SWAPS.items()}


def changes(tree):
    """Functions that change the tree in one place, each with its line and what it does."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            yield line, f"{name(node.op)} -> {name(swapped(node.op))}", setter(node, "op", swapped(node.op))
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            new = swapped(node.ops[0])
            yield line, f"{name(node.ops[0])} -> {name(new)}", setter(node, "ops", [new])
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            new = not node.value if isinstance(node.value, bool) else node.value + 1
            yield line, f"{node.value} -> {new}", setter(node, "value", new)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield line, "not x -> not not x", setter(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
        elif isinstance(node, ast.Return) and getattr(node.value, "value", node.value) is not None:
            yield line, "return x -> return None", setter(node, "value", ast.Constant(None))


def swapped(op):
    return SWAPS[type(op)]()


def name(op):
    return type(op).__name__


def setter(node, field, value):
    return lambda: setattr(node, field, value)


def mutants():
    """All: a file, the number of its change, the line and what is changed."""
    files = [PACKAGE / part for part in CORE]
    for path in [x for file in files for x in ([file] if file.suffix else sorted(file.rglob("*.py")))]:
        for number, (line, what, _) in enumerate(changes(ast.parse(path.read_text()))):
            yield path.relative_to(PACKAGE), number, line, what


def write(path, number, sources):
    """Changes a file in the copy of the sources, and returns what it was."""
    target, tree = sources / "mada_optim" / path, ast.parse((PACKAGE / path).read_text())
    list(changes(tree))[number][2]()
    target.write_text(ast.unparse(ast.fix_missing_locations(tree)))


def tests_for(path, folder, about_alone):
    """The test files about the path, and then all others of SUITES."""
    (about,) = (x for x in FIRST if path.parts[0].removesuffix(".py") == x)
    first = [Path("tests", f"{x}.py") for x in FIRST[about].split()]
    rest = [x.relative_to(folder) for suite in SUITES for x in sorted((folder / "tests" / suite).glob("test_*.py"))]
    return first if about_alone else [*first, *(x for x in rest if x not in first)]


def judged(files, sources, folder, limit):
    """What the tests say: killed, alive, or undecided where they take longer than the limit."""
    environment = {**os.environ, "PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *map(str, files)]
    run = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return "killed" if run.wait(limit) else "alive"
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
        return "undecided"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*")
    parser.add_argument("--tests", type=Path, default=ROOT)
    parser.add_argument("--about", action="store_true", help="run no tests but those about the file")
    parser.add_argument("--limit", type=float, default=900.0)
    given = parser.parse_args()
    sample = random.Random(given.seed).sample(list(mutants()), given.number)
    tally = Counter()
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder, "src")
        for i, (path, number, line, what) in enumerate(sample):
            if given.only is not None and i not in given.only:
                continue
            shutil.copytree(ROOT / "src", sources, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            write(path, number, sources)
            began = time.monotonic()
            files = tests_for(path, given.tests, given.about)
            state = judged(files, sources, given.tests, given.limit)
            tally[path.parts[0], state] += 1
            print(f"{i:3d} {state:9} {time.monotonic() - began:5.0f} s  {path}:{line}  {what}", flush=True)
    for part in CORE:
        if total := sum(tally[part, state] for state in ("killed", "alive", "undecided")):
            print(f"{part}: {tally[part, 'killed']} of {total} killed, {tally[part, 'undecided']} undecided")


if __name__ == "__main__":
    main()
