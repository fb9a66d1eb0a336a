"""Reads configuration files: the tables of TOML, or the assignments of Python. Neither is executed."""

import tomllib
from pathlib import Path
from typing import Any

from mada_lab.config import python_files
from mada_lab.errors import ConfigError, require_exists

FILE_BYTES = 1 << 20  # at most: a path may lead to an endless device


def is_python(path: Path) -> bool:
    """Whether a configuration is Python, by its name."""
    return path.suffix == ".py"


def read_assignments(path: Path) -> dict[str, python_files.Assignment]:
    """The assignments of a Python file. Raises ConfigError if it can't be read, or has anything else in it."""
    return python_files.assignments(_content(path), path)


def read_tables(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ConfigError if it can't be read, or isn't TOML."""
    try:
        return tomllib.loads(_content(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration, in {path}: expected TOML, got: {error}; correct the file") from error


def _content(path: Path) -> bytes:
    require_exists(path, "configuration")
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        refusal = f"expected a readable file, got {error.strerror}; check the path"
        raise ConfigError(f"configuration, in {path}: {refusal}") from error
    if len(content) > FILE_BYTES:
        raise ConfigError(f"configuration, in {path}: expected at most {FILE_BYTES} bytes, got more; check the path")
    return content
