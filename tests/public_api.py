"""Every public name and signature of both packages, as one text: tests/data/public_api.txt.

python -m tests.public_api --write     # after a change that was decided; CHANGELOG.md says it too
"""

import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from torch.optim.optimizer import ParamsT

from mada_lab import cli, errors
from mada_lab.config.keys import RunConfig

PATH = Path(__file__).parent / "data" / "public_api.txt"
#: Modules whose public names are for users; the integrations import libraries that may be missing.
MODULES = ("mada_optim", "mada_optim.rule", "mada_optim.describe", "mada_optim.integrations.logs")
KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional ",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "",
    inspect.Parameter.KEYWORD_ONLY: "keyword ",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
HEAD = "Public names and signatures. Written by `python -m tests.public_api --write`.\n"


def public_names(module):
    """`__all__`, or the names without an underscore that the module itself defines."""
    own = [name for name, x in vars(module).items() if getattr(x, "__module__", "") == module.__name__]
    return sorted(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


def signature(x):
    """A line for each parameter: how it is passed, its name, type and default."""
    found = x.__init__ if inspect.isclass(x) and x.__new__ is not object.__new__ else x
    for p in inspect.signature(found).parameters.values():
        if p.name != "self":
            default = "" if p.default is p.empty else f" = {shown(p.default)}"
            yield f"    {KINDS[p.kind]}{p.name}: {annotation(p.annotation)}{default}"


def result(x):
    """The type that a function or a property returns."""
    found = x.fget if isinstance(x, property) else x
    return f" -> {annotation(inspect.signature(found).return_annotation)}"


def annotation(x):
    """A type without the modules of its names and without the notes of `Annotated`, equal in all versions of torch."""
    if x == ParamsT:
        return "ParamsT"
    x = getattr(x, "__origin__", x) if hasattr(x, "__metadata__") else x
    return re.sub(r"(\w+\.)+", "", x if isinstance(x, str) else inspect.formatannotation(x))


def shown(x):
    """A value without addresses of memory."""
    x = dict(x) if isinstance(x, Mapping) else x
    is_plain = x is None or is_dataclass(x) or isinstance(x, str | int | float | tuple | dict)
    return repr(x) if is_plain else f"<{getattr(x, '__name__', type(x).__name__)}>"


def lines_of(name, x):
    """A value in a line; a function or class with its parameters; of a class also the public members."""
    if not callable(x):
        yield f"{name} = {shown(x)}"
        return
    yield f"class {name}" if inspect.isclass(x) else f"{name}{result(x)}"
    yield from signature(x)
    for member in members(x):
        value = inspect.getattr_static(x, member)
        value = getattr(value, "__func__", value)
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield f"  .{member}{result(value)}"
            yield from signature(value) if inspect.isfunction(value) else ()


def members(x):
    """Names in a class, and in its bases that are ours, up to the first public one, which has them listed."""
    bases = [base for base in x.__mro__ if base.__module__.startswith("mada_optim")] if inspect.isclass(x) else []
    public = sys.modules["mada_optim"].__all__
    ours = [*bases[:1], *itertools.takewhile(lambda base: base.__name__ not in public, bases[1:])]
    names = {name for base in ours for name, value in vars(base).items() if not is_hook(base, value)}
    return sorted(names)


def is_hook(cls, value):
    """Whether torch has put a method into the class of an optimizer, as it does with `step` for its hooks."""
    return getattr(value, "hooked", False) and cls.__name__ != "HyperOptimizer"


def of_library():
    for path in MODULES:
        module = importlib.import_module(path)
        yield f"\n# {path}"
        for name in public_names(module):
            yield from lines_of(name, getattr(module, name))


def of_application():
    """Commands, exit codes, and the keys of `train` with their defaults."""
    yield "\n# mada-lab: commands"
    yield from sorted(cli.COMMANDS)
    yield "\n# mada-lab: exit codes"
    found = [x for x in vars(errors).values() if inspect.isclass(x) and issubclass(x, errors.LabError)]
    yield from sorted(f"{x.__name__} {x.exit_code}" for x in found)
    yield "\n# mada-lab train: keys"
    yield from (f"{x.name} = {x.default!r}" for x in sorted(fields(RunConfig), key=lambda x: x.name))


def written():
    return "\n".join([HEAD, *of_library(), *of_application(), ""])


if __name__ == "__main__":
    PATH.write_text(written()) if "--write" in sys.argv else print(written())
