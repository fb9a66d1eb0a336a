"""Values for each coefficient in one key: `beta1=5e-4,gamma=0` gives numbers, `beta1=0.01:0.99` intervals.

A TOML file may hold a table in the place of the text. The configuration holds the text, which every record can show.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

FORMS = {"numbers": "one number, or beta1=5e-4,gamma=0", "intervals": "beta1=0.01:0.99,rho=0:1"}


def numbers(text: str) -> dict[str, float]:
    """The number of each coefficient. Raises ValueError if the text has another form."""
    return _each(text, _number, FORMS["numbers"])


def intervals(text: str) -> dict[str, tuple[float, float]]:
    """The interval of each coefficient. Raises ValueError if the text has another form."""
    return _each(text, _interval, FORMS["intervals"])


READ: dict[str, Callable[[str], dict[str, Any]]] = {"numbers": numbers, "intervals": intervals}


def as_text(table: Mapping[str, Any]) -> str:
    """The text that a table of a TOML file stands for: numbers, or lists of two as intervals."""
    shown = {name: ":".join(map(str, x)) if isinstance(x, list) else x for name, x in table.items()}
    return ",".join(f"{name}={x}" for name, x in shown.items())


def _each(text: str, read: Callable[[str], T], form: str) -> dict[str, T]:
    found: dict[str, T] = {}
    for part in text.split(","):
        name, _, value = (x.strip() for x in part.partition("="))
        try:
            if not name or name in found:
                raise ValueError
            found[name] = read(value)
        except ValueError:
            raise ValueError(f"expected {form}, got {text!r}") from None
    return found


def _number(text: str) -> float:
    x = float(text)
    if not math.isfinite(x):
        raise ValueError
    return x


def _interval(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    return _number(low), _number(high)
