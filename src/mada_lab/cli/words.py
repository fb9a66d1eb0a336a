"""Words on a command line: names, and options with their values."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mada_lab.errors import ConfigError, visible

LARGEST = 2**63 - 1  # of torch's seeds and sizes
DIGITS = 19  # of the largest; Python refuses to read thousands


def split(words: list[str], allowed: set[str]) -> tuple[list[str], dict[str, str]]:
    """Positional words, and options with their values, given as `--name value` or `--name=value`."""
    names, options = [], {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            names.append(word)
            continue
        name, given, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in allowed:
            raise ConfigError(
                f"command line: expected one of {', '.join(sorted(allowed))}, got {name}; see `mada-lab --help`"
            )
        if not given:
            value = next(rest, "")
        if not value:
            raise ConfigError(f"command line, option {name}: expected a value, got none; see `mada-lab --help`")
        options[name] = value
    return names, options


def whole_number(
    command: str, options: Mapping[str, str], name: str, default: int, low: int, high: int = LARGEST
) -> int:
    """The whole number that option `name` gives, in [low, high]. Raises ConfigError for another value."""
    text = options.get(name, str(default))
    if not text.isdecimal() or len(text) > DIGITS or not low <= int(text) <= high:
        allowed = f"at least {low}" if high == LARGEST else f"in [{low}, {high}]"
        raise ConfigError(f"{command}, option {name}: expected a whole number {allowed}, got {text}; correct it")
    return int(text)


def number(command: str, name: str, text: object, low: float = 0.0, high: float = math.inf) -> float:
    """The finite number in `text` above `low`, and `high` at most. Raises ConfigError for another value."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not (math.isfinite(value) and low < value <= high):
        allowed = f"above {low:g}" if high == math.inf else f"above {low:g}, {high:g} at most"
        raise ConfigError(f"{command}, option {name}: expected a finite number {allowed}, got {text}; correct it")
    return value


def seeds_of(command: str, given: object, name: str = "--seeds") -> list[int]:
    """The seeds in `1,2,...`, or in a list. Raises ConfigError for what is no seed, or twice there."""
    texts = [str(x) for x in given] if isinstance(given, list) else str(given).split(",")
    seeds = [whole_number(command, {name: text}, name, 0, 0) for text in texts]
    if len(set(seeds)) < len(seeds) or not seeds:
        raise ConfigError(f"{command}, option {name}: expected distinct seeds, got {given}; correct it")
    return seeds


def path_of(options: Mapping[str, str], name: str) -> Path | None:
    """The path that option `name` gives, if it is given."""
    return Path(options[name]) if name in options else None


def flag(words: list[str], name: str) -> tuple[bool, list[str]]:
    """Whether `name` is among the words, and the others."""
    return name in words, [word for word in words if word != name]


def take(words: list[str], names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of the options called `names`, each as often as it was given, and the words that are none of them."""
    found: dict[str, list[str]] = {}
    rest, waiting = [], iter(words)
    for word in waiting:
        option, given, value = word.partition("=")
        name = option.removeprefix("--")
        if not option.startswith("--") or name not in names:
            rest.append(word)
            continue
        value = value if given else next(waiting, "")
        if not value:
            raise ConfigError(f"command line, option {option}: expected a value, got none; see `mada-lab --help`")
        found.setdefault(name, []).append(value)
    return found, rest


def say(notes: Sequence[str]) -> None:
    """Prints notes on standard error, a line each; of several processes, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {visible(note)}", file=sys.stderr)
