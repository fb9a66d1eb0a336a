"""Words on a command line: names, and options with their values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mada_lab.errors import ConfigError


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
    command: str, options: Mapping[str, str], name: str, default: int, low: int, high: int | None = None
) -> int:
    """The whole number that option `name` gives, in [low, high]. Raises ConfigError for another value."""
    text = options.get(name, str(default))
    if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
        allowed = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ConfigError(f"{command}, option {name}: expected a whole number {allowed}, got {text}; correct it")
    return int(text)


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
