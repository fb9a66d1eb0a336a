"""Who may import whom, and what a rule may not do. Read from the syntax trees, so nothing is imported to check it."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(SRC.rglob("*.py"))

#: The rooms of each package from the ground up: a room imports from its own files and from lower floors alone.
FLOORS = {
    "mada_optim": (
        "load_by_name modes placement rule",
        "beta_guard graph layouts",
        "checks sharding",
        "learning matrices",
        "engines grouping rules",
        "group_keys inspection state_dicts stepping",
        "hyper_optimizer",
        "integrations optimizers",
        "__init__ describe",
    ),
    "mada_lab": (
        "__init__ errors",
        "model system",
        "config data",
        "compute records",
        "checkpoints optimizers plots",
        "pretrained reports",
        "evaluation tasks",
        "training",
        "experiments",
        "cli",
        "__main__",
    ),
}
WITHOUT_TORCH = ("mada_lab.records.run_record", "mada_lab.records.outcome", "mada_lab.reports.report")
FLOOR_OF = {
    f"{package}.{room}": height
    for package, floors in FLOORS.items()
    for height, rooms in enumerate(floors)
    for room in rooms.split()
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


def room_of(name):
    """`mada_lab.config` for mada_lab.config.keys.RunConfig; a package's own file is its room __init__."""
    package, _, rest = name.partition(".")
    room = f"{package}.{rest.partition('.')[0]}"
    return room if room in FLOOR_OF else f"{package}.__init__"


def ours(path):
    """The modules of this project that a file imports, `from a import b` as a.b."""
    return [x for x in imports(path) if x.partition(".")[0] in FLOORS]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_lead_to_lower_floors(path):
    here = room_of(module(path))
    for name in ours(path):
        there = room_of(name)
        if there == here or there.partition(".")[0] != here.partition(".")[0]:
            continue
        assert FLOOR_OF[there] < FLOOR_OF[here], f"{module(path)} may not import {name}"


def test_the_floors_name_every_room_and_no_other():
    rooms = {
        f"{package}.{path.stem}"
        for package in FLOORS
        for path in (SRC / package).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_no_file_imports_itself_by_others(package):
    """Inside a room too, imports have no circle."""
    names = {module(path) for path in FILES if within(module(path), package)}
    found = {
        module(path): {x for name in ours(path) for x in (name, name.rpartition(".")[0]) if x in names - {package}}
        for path in FILES
        if module(path) in names
    }
    left = dict(found)
    while free := [name for name, needs in left.items() if not (needs & left.keys()) - {name}]:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert sorted(left) == []


@pytest.mark.parametrize("path", [p for p in FILES if within(module(p), "mada_optim")], ids=module)
def test_the_library_needs_torch_alone(path):
    for name in imports(path):
        assert not within(name, "mada_lab"), name
        assert not within(name, "numpy"), name


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
def test_records_and_plots_need_no_torch(path):
    if room_of(module(path)) == "mada_lab.plots" or module(path) in WITHOUT_TORCH:
        assert [name for name in imports(path) if within(name, "torch")] == []


@pytest.mark.parametrize("path", FILES, ids=module)
def test_nothing_unpickles(path):
    for name in imports(path):
        assert name.split(".")[0] not in {"pickle", "dill", "cloudpickle", "shelve", "joblib"}, name
    source = path.read_text()
    for call in ("torch.load(", "np.load(", "numpy.load("):
        assert call not in source, call
