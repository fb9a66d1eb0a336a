"""JSON of the standard: other numbers than finite ones are written as null, and refused when read."""

import json
import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn


def dumps(value: object, indent: int | None = None) -> str:
    """`value` as JSON text. NaN and infinities become null. Raises TypeError for what has no JSON, such as a tensor."""
    return json.dumps(_plain(value), allow_nan=False, indent=indent)


def loads(text: bytes) -> object:
    """The value that `text` (UTF-8) stands for. Raises ValueError if it isn't strict JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("objects nested too deep") from error


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, to any depth."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


def _plain(value: object) -> object:
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case bool() | str() | None:
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
        case Path():
            return str(value)
    raise TypeError(f"run record: expected JSON types, numbers or a Path, got {type(value).__name__}; convert it first")
