"""Imports packages that only some commands need; the error about a missing one names it."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from mada_lab.errors import DataError, translated


def load(module: str, install: str) -> ModuleType:
    """Imports `module`. Raises DataError if it isn't installed; `install` is the argument of `pip install` for it."""

    def missing(error: ImportError) -> DataError:
        what = f'expected it installed, got {error}; run `pip install "{install}"`'
        return DataError(f"package {module.partition('.')[0]}: {what}")

    with translated(ImportError, missing):
        return importlib.import_module(module)


def installed(package: str) -> bool:
    """Whether a package can be imported; a mere folder of its name, which wandb leaves, is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
