"""Packages that only some commands need: imported when wanted, and named in the error when missing."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from mada_lab.errors import DataError


def load(module: str, install: str) -> ModuleType:
    """Imports `module`.

    Args:
        module: Its full name.
        install: What to give to `pip install` for it: an extra of this project, or a package.

    Raises:
        DataError: It isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(
            f'package {package}: expected it installed, got {error}; run `pip install "{install}"`'
        ) from error


def installed(package: str) -> bool:
    """Whether a package can be imported; a mere folder of its name, as wandb leaves one, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
