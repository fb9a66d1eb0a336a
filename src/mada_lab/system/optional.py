"""Packages that only some data sets need: imported when wanted, and named in the error when missing."""

import importlib
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
