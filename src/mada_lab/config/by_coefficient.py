"""Values by coefficient in one key: numbers, as `beta1=5e-4,gamma=0`, or intervals, as `beta1=0.01:0.99`.

A TOML file may have a table instead. The configuration keeps the text, which every record can show.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from mada_lab.config.declarations import declarations


def read(text: str, form: str) -> dict[str, Any]:
    """The number or the interval of each coefficient; `form` is "numbers" or "intervals".

    Raises:
        ValueError: The text has another form.
    """
    example, read_one = FORMS[form]
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (x.strip() for x in part.partition("="))
        try:
            if not name or name in values:
                raise ValueError
            values[name] = read_one(value)
        except ValueError:
            raise ValueError(f"expected {example}, got {text!r}") from None
    return values


def values_of(config: Any, key: str) -> dict[str, Any]:
    """The values by coefficient of a key in a checked configuration; none if it has no such text."""
    text, form = getattr(config, key), declarations(type(config))[key].by_coefficient
    return read(text, form) if form and isinstance(text, str) else {}


def as_text(table: Mapping[str, Any]) -> str:
    """The text for a table of a TOML file, of numbers, or of lists of two as intervals."""
    return ",".join(f"{name}={':'.join(map(str, x)) if isinstance(x, list) else x}" for name, x in table.items())


def _number(text: str) -> float:
    x = float(text)
    if not math.isfinite(x):
        raise ValueError
    return x


def _interval(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    return _number(low), _number(high)


#: An example of each form, and the function that reads one value.
FORMS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "numbers": ("one number, or beta1=5e-4,gamma=0", _number),
    "intervals": ("beta1=0.01:0.99,rho=0:1", _interval),
}
