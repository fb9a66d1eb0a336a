"""Who may import whom, and what a rule may not do. Read from the syntax trees, so nothing is imported to check it."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(SRC.rglob("*.py"))

#: What each part of the library may import of the library.
ALLOWED = {
    "mada_optim.rule": (),
    "mada_optim.modes": (),
    "mada_optim.placement": (),
    "mada_optim.matrices.polar_factor": ("mada_optim.modes", "mada_optim.sharding.dtensors"),
    "mada_optim.matrices.names": (),
    "mada_optim.matrices.output_layers": ("mada_optim.matrices.names",),
    "mada_optim.matrices.guess": ("mada_optim.matrices.names", "mada_optim.matrices.output_layers"),
    "mada_optim.layouts": ("mada_optim.rule",),
    "mada_optim.matrices.hidden_matrices": (
        "mada_optim.matrices.guess",
        "mada_optim.layouts",
        "mada_optim.matrices.names",
        "mada_optim.rule",
        "mada_optim.graph.specialize",
    ),
    "mada_optim.grouping.modules": ("mada_optim.layouts", "mada_optim.matrices.names"),
    "mada_optim.grouping.weights": (
        "mada_optim.layouts",
        "mada_optim.grouping.modules",
        "mada_optim.matrices.names",
        "mada_optim.matrices.output_layers",
    ),
    "mada_optim.grouping.param_groups": (
        "mada_optim.checks",
        "mada_optim.layouts",
        "mada_optim.grouping.modules",
        "mada_optim.matrices.names",
        "mada_optim.grouping.weights",
    ),
    "mada_optim.rules": ("mada_optim.rule", "mada_optim.rules", "mada_optim.matrices.polar_factor"),
    "mada_optim.graph.specialize": ("mada_optim.rule",),
    "mada_optim.graph.builder": ("mada_optim.graph.specialize",),
    "mada_optim.graph.derivatives": ("mada_optim.graph.builder",),
    "mada_optim.graph.differentiate": ("mada_optim.graph.builder", "mada_optim.graph.derivatives"),
    "mada_optim.describe": (
        "mada_optim.rule",
        "mada_optim.rules",
        "mada_optim.graph.specialize",
        "mada_optim.checks",
        "mada_optim.describe",
    ),
    "mada_optim.describe.__main__": ("mada_optim.rules", "mada_optim.describe"),
    "mada_optim.describe.pages": (
        "mada_optim.rule",
        "mada_optim.rules",
        "mada_optim.describe",
        "mada_optim.hyper_optimizer",
        "mada_optim.optimizers",
    ),
    "mada_optim.engine": ("mada_optim.rule", "mada_optim.engine", "mada_optim.layouts", "mada_optim.placement"),
    "mada_optim.hyper": ("mada_optim.rule", "mada_optim.checks", "mada_optim.hyper", "mada_optim.placement"),
    "mada_optim.engines.choice": (
        "mada_optim.rule",
        "mada_optim.graph.specialize",
        "mada_optim.graph.builder",
        "mada_optim.graph.derivatives",
        "mada_optim.graph.differentiate",
        "mada_optim.engine",
        "mada_optim.engines.choice",
        "mada_optim.matrices.polar_factor",
        "mada_optim.sharding.exchange",
        "mada_optim.layouts",
        "mada_optim.placement",
    ),
    "mada_optim.sharding.exchange": ("mada_optim.layouts",),
    "mada_optim.stepping.dispatch": (
        "mada_optim.layouts",
        "mada_optim.sharding.dtensors",
        "mada_optim.rule",
        "mada_optim.graph.specialize",
        "mada_optim.engine",
        "mada_optim.hyper",
        "mada_optim.engines.choice",
    ),
    "mada_optim.checks": ("mada_optim.rule", "mada_optim.layouts"),
    "mada_optim.learning.observation": ("mada_optim.checks", "mada_optim.sharding.dtensors"),
    "mada_optim.sharding.dtensors": ("mada_optim.rule", "mada_optim.layouts"),
    "mada_optim.matrices.start_lr": ("mada_optim.rule", "mada_optim.matrices.hidden_matrices", "mada_optim.layouts"),
    "mada_optim.load_by_name": (),
    "mada_optim.stepping.members": ("mada_optim.matrices.hidden_matrices",),
    "mada_optim.step_count": ("mada_optim.modes",),
    "mada_optim.group_keys": (
        "mada_optim.rule",
        "mada_optim.checks",
        "mada_optim.learning.bank",
        "mada_optim.matrices.hidden_matrices",
        "mada_optim.rules",
    ),
    "mada_optim.beta_guard": ("mada_optim.rule",),
    "mada_optim.inspection": ("mada_optim.learning.bank", "mada_optim.rule"),
    "mada_optim.state_dicts": (
        "mada_optim.rule",
        "mada_optim.graph.specialize",
        "mada_optim.engine",
        "mada_optim.hyper",
        "mada_optim.matrices.hidden_matrices",
        "mada_optim.layouts",
        "mada_optim.sharding.dtensors",
    ),
    "mada_optim.stepping.collect": (
        "mada_optim.engines.cpp.tensors",
        "mada_optim.stepping.members",
        "mada_optim.rule",
        "mada_optim.checks",
        "mada_optim.engine",
        "mada_optim.learning.banks",
        "mada_optim.placement",
        "mada_optim.matrices.hidden_matrices",
        "mada_optim.layouts",
        "mada_optim.sharding.dtensors",
    ),
    "mada_optim.stepping.reuse": (
        "mada_optim.stepping.members",
        "mada_optim.rule",
        "mada_optim.stepping.collect",
        "mada_optim.stepping.dispatch",
        "mada_optim.engine",
        "mada_optim.engines.choice",
        "mada_optim.placement",
    ),
    "mada_optim.hyper_optimizer": (
        "mada_optim.modes",
        "mada_optim.stepping.reuse",
        "mada_optim.step_count",
        "mada_optim.stepping.collect",
        "mada_optim.rule",
        "mada_optim.rules",
        "mada_optim.graph.specialize",
        "mada_optim.engine",
        "mada_optim.hyper",
        "mada_optim.stepping.dispatch",
        "mada_optim.load_by_name",
        "mada_optim.checks",
        "mada_optim.group_keys",
        "mada_optim.beta_guard",
        "mada_optim.matrices.start_lr",
        "mada_optim.matrices.hidden_matrices",
        "mada_optim.learning.observation",
        "mada_optim.inspection",
        "mada_optim.sharding.dtensors",
        "mada_optim.state_dicts",
    ),
    "mada_optim.optimizers": (
        "mada_optim.rule",
        "mada_optim.beta_guard",
        "mada_optim.hyper",
        "mada_optim.hyper_optimizer",
        "mada_optim.optimizers",
    ),
    "mada_optim.integrations": ("mada_optim.hyper_optimizer", "mada_optim.integrations"),
    "mada_optim": (
        "mada_optim.beta_guard",
        "mada_optim.hyper",
        "mada_optim.hyper_optimizer",
        "mada_optim.grouping.param_groups",
        "mada_optim.optimizers",
    ),
}


def module(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Full names of what a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, package):
    return name == package or name.startswith(package + ".")


def part_of(name):
    """The longest entry of ALLOWED that `name` belongs to; the package itself only for its own __init__."""
    return max((part for part in ALLOWED if within(name, part) and (part != "mada_optim" or name == part)), key=len)


@pytest.mark.parametrize("path", [p for p in FILES if within(module(p), "mada_optim")], ids=module)
def test_library_imports_flow_one_way(path):
    allowed = ALLOWED[part_of(module(path))]
    for name in imports(path):
        assert not within(name, "mada_lab"), name
        assert not within(name, "numpy"), f"{name}: the library needs torch alone"
        if within(name, "mada_optim"):
            # `from mada_optim import checks` names the module checks
            assert any(within(name, x) for x in allowed), f"{module(path)} may not import {name}"


@pytest.mark.parametrize("path", sorted((SRC / "mada_optim" / "rules").glob("*.py")), ids=module)
def test_rules_are_pure(path):
    """No cut of the graph, no in-place op, no branch; but for `terms.stop_gradient` in what reproduces others' code."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr == "detach" and path.name == "terms.py":
                continue
            assert node.attr not in {"detach", "data", "no_grad", "item", "tolist"}, (path.name, node.attr)
            assert not (node.attr.endswith("_") and not node.attr.startswith("_")), (path.name, node.attr)
        assert not isinstance(node, ast.If | ast.IfExp | ast.While | ast.AugAssign), (path.name, node.lineno)
    for name in imports(path):
        if path.name != "__init__.py":  # the registry, which imports the files it lists
            assert within(name, "torch") or within(name, "mada_optim") or name.startswith("dataclasses"), name
        uses = name == "mada_optim.rules.terms.stop_gradient"
        assert not uses or path.stem in ("mada_released", "mada_published"), path.name


@pytest.mark.parametrize("path", sorted((SRC / "mada_optim" / "rules").glob("*.py")), ids=module)
def test_a_rule_is_one_short_file(path):
    assert len(path.read_text().splitlines()) <= 80


def test_every_rule_file_is_registered():
    """Adding a rule is one file and one line; a file without its line would be dead."""
    files = {p.stem for p in (SRC / "mada_optim" / "rules").glob("*.py")} - {"__init__", "terms"}
    registry = (SRC / "mada_optim" / "rules" / "__init__.py").read_text()
    assert files == {name for name in files if f'    "{name}",\n' in registry}


@pytest.mark.parametrize("path", [p for p in FILES if within(module(p), "mada_lab")], ids=module)
def test_application_imports(path):
    """Plots and records need neither torch nor the loop; the loop needs neither experiments nor plots."""
    name = module(path)
    for imported in imports(path):
        if within(name, "mada_lab.plots") or name in ("mada_lab.records.run_record", "mada_lab.reports.report"):
            assert not within(imported, "torch"), imported
            assert not within(imported, "mada_lab.training.loop"), imported
        if name == "mada_lab.training.loop":
            assert not within(imported, "mada_lab.experiments"), imported
            assert not within(imported, "mada_lab.plots"), imported


@pytest.mark.parametrize("path", FILES, ids=module)
def test_nothing_unpickles(path):
    for name in imports(path):
        assert name.split(".")[0] not in {"pickle", "dill", "cloudpickle", "shelve", "joblib"}, name
    source = path.read_text()
    for call in ("torch.load(", "np.load(", "numpy.load("):
        assert call not in source, call
