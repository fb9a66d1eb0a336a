"""The rooms of both packages, from the ground up, and the map of them in docs/inside/architecture.md.

python -m tests.rooms --write     # after a change of FLOORS, or of the first line of a room
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
FILES = sorted(SRC.rglob("*.py"))
PAGE = ROOT / "docs" / "inside" / "architecture.md"
BEGIN, END = "<!-- rooms: begin -->\n", "<!-- rooms: end -->\n"
WIDTH = 46  # columns of the picture, which fit a narrow screen

#: The rooms of each package from the ground up: a room imports from its own files and from lower floors alone.
FLOORS = {
    "mada_optim": (
        "load_by_name matrix_batches modes placement rule",
        "beta_guard graph layouts",
        "checks sharding",
        "learning matrices",
        "engines grouping rules",
        "group_keys inspection registry state_dicts stepping",
        "inspectable",
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


def line_of(room):
    """The first sentence of a room's docstring."""
    package, _, name = room.partition(".")
    folder = SRC / package
    path = folder / f"{name}.py" if (folder / f"{name}.py").exists() else folder / name / "__init__.py"
    paragraph = ast.get_docstring(ast.parse(path.read_text())).partition("\n\n")[0]
    return " ".join(paragraph.split())


def picture(package):
    """The floors as boxes, the highest first."""
    lines = []
    for rooms in reversed(FLOORS[package]):
        names = "  ".join(name for name in rooms.split() if not name.startswith("__"))
        lines += [names.center(WIDTH).rstrip(), ("-" * len(names)).center(WIDTH).rstrip()] if names else []
    return "\n".join(lines)


def page_part():
    """What the page has between its marks."""
    parts = []
    for package in ("mada_lab", "mada_optim"):
        rooms = [f"{package}.{name}" for floor in reversed(FLOORS[package]) for name in floor.split()]
        rows = [f"| `{room.partition('.')[2]}` | {line_of(room)} |" for room in rooms if "__" not in room]
        parts.append(f"## `{package}`\n\n```text\n{picture(package)}\n```\n")
        parts.append("\n".join(["| room | what lives there |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def written():
    """The page as it should be."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    return head + BEGIN + page_part() + END + rest.partition(END)[2]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    PAGE.write_text(written())
