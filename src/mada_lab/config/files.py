"""Reads configuration files. Their content is never executed."""

import tomllib
from pathlib import Path
from typing import Any

from mada_lab.errors import ConfigError, require_exists

FILE_BYTES = 1 << 20  # at most: a path may lead to an endless device


def tables(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ConfigError if it can't be read, or isn't TOML."""
    try:
        return tomllib.loads(content(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration, in {path}: expected TOML, got: {error}; correct the file") from error


def content(path: Path) -> bytes:
    """The content of a configuration file. Raises ConfigError if it can't be read, or is too long."""
    require_exists(path, "configuration")
    try:
        with open(path, "rb") as file:
            read = file.read(FILE_BYTES + 1)
    except OSError as error:
        refusal = f"expected a readable file, got {error.strerror}; check the path"
        raise ConfigError(f"configuration, in {path}: {refusal}") from error
    if len(read) > FILE_BYTES:
        raise ConfigError(f"configuration, in {path}: expected at most {FILE_BYTES} bytes, got more; check the path")
    return read
