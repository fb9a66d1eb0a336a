"""Who may import whom, and what a rule may not do. Read from the syntax trees, so nothing is imported to check it."""

import ast

import pytest

from tests.rooms import FILES, FLOOR_OF, FLOORS, PAGE, SRC, imports, module, ours, room_of, within, written

WITHOUT_TORCH = ("mada_lab.records.run_record", "mada_lab.records.outcome", "mada_lab.reports.report")


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_lead_to_lower_floors(path):
    here = room_of(module(path))
    for name in ours(path):
        there = room_of(name)
        if there == here or there.partition(".")[0] != here.partition(".")[0]:
            continue
        assert FLOOR_OF[there] < FLOOR_OF[here], f"{module(path)} may not import {name}"


def test_the_page_has_every_room():
    """`python -m tests.rooms --write` brings it up to date."""
    assert PAGE.read_text() == written()


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
    """Adding a rule is one file and its name; a file that isn't named would be dead."""
    files = {p.stem for p in (SRC / "mada_optim" / "rules").glob("*.py")} - {"__init__", "terms"}
    registry = (SRC / "mada_optim" / "rules" / "__init__.py").read_text().replace('"', " ").split()
    assert files - set(registry) == set()


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


def test_no_file_is_long():
    lengths = {x: len(x.read_text().splitlines()) for x in SRC.rglob("*") if x.suffix in (".py", ".cpp", ".h", ".j2")}
    assert [path for path, length in lengths.items() if length > 350] == []


#: Underscored names of torch, of the standard library and of named tuples, which tests may use.
OF_OTHERS = {"_asdict", "_exit", "_fields", "_replace", "_schema", "_use_count", "_version"}
OUTSIDE = {"self", "cls", "torch", "gc", "sys", "os"}


def root_of(node):
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return getattr(node, "id", None)


@pytest.mark.parametrize("path", sorted((SRC.parent / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_tests_use_public_names(path):
    """But for `torch_checks`, which runs torch's own tests."""
    names = [
        (node.lineno, node.attr)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if root_of(node) not in OUTSIDE and node.attr not in OF_OTHERS
    ]
    assert path.parent.name == "torch_checks" or names == []
