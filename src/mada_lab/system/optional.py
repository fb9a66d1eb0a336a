"""Imports packages that only some commands need; the error about a missing one, or about an old torch, names it."""

import importlib
import importlib.metadata
import re
from importlib.util import find_spec
from types import ModuleType

from mada_lab.errors import DataError, translated

OLDEST_TORCH = (2, 9)  # which brought torch.optim.Muon; as in the extra `lab` of pyproject.toml. The library needs less


def load(module: str, install: str) -> ModuleType:
    """Imports `module`. Raises DataError if it isn't installed; `install` is the argument of `pip install` for it."""

    def missing(error: ImportError) -> DataError:
        what = f'expected it installed, got {error}; run `pip install "{install}"`'
        return DataError(f"package {error.name or module.partition('.')[0]}: {what}")

    with translated(ImportError, missing):
        return importlib.import_module(module)


def installed(package: str) -> bool:
    """Whether a package can be imported; a mere folder of its name, which wandb leaves, is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def check_torch() -> None:
    """Raises DataError if the installed torch is older than OLDEST_TORCH."""
    version = importlib.metadata.version("torch")
    major, minor = map(int, re.findall(r"\d+", version)[:2])
    if (major, minor) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        remedy = 'run `pip install --upgrade "mada-optim[lab]"`'
        raise DataError(f"package torch: expected {oldest} or newer, got {version}; {remedy}")
