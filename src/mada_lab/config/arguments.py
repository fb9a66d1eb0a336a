"""The arguments of a command, declared once: the declaration reads the command line and prints the help."""

import argparse
import math
import textwrap
from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mada_lab.errors import ConfigError

WIDTH = 100  # columns of a help page
LARGEST = 2**63 - 1  # of torch's seeds and sizes
DIGITS = 19  # of LARGEST; Python refuses to read thousands


class Arguments(argparse.ArgumentParser):
    """The arguments of one command. Its `--help` prints them and ends the process.

    Args:
        command: The words after `mada-lab`.
        does: What the command does.
        example: A command line that works.
        places: Arguments without a name, as `RUN` or `RUN...`, and their meanings.
        least: How many of these are required; None is all.
    """

    def __init__(
        self, command: str, does: str, example: str, places: Mapping[str, str] | None = None, least: int | None = None
    ) -> None:
        self.command, self.example, self.places = command, example, places or {}
        self._least, self._topics = len(self.places) if least is None else least, dict[str, Any]()
        rows = [hung(f"  {name:<23} {meaning}", 26) for name, meaning in self.places.items()]
        super().__init__(
            prog=f"mada-lab {command}",
            usage=" ".join(["%(prog)s", *self.places, "[OPTIONS]"]),
            description="\n".join([hung(does, 0), *(["\narguments:", *rows] if rows else [])]),
            epilog=f"example:\n  {example}",
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=WIDTH),
            allow_abbrev=False,
        )

    def option(
        self,
        name: str,
        meaning: str,
        read: Callable[[str], Any] | None = None,
        default: Any = None,
        shown: str = "TEXT",
        topic: str = "",
        action: str = "store",
    ) -> None:
        """Declares `--name VALUE`.

        Args:
            name: Its name without dashes.
            meaning: What it sets, with the unit.
            read: Reads the value, and raises ArgumentTypeError for a wrong one. None takes any text but the empty one.
            default: Its value if it isn't given. Where it is None, `meaning` tells the default.
            shown: Stands for the value in the help.
            topic: Title of its group in the help.
            action: `append` if it may be given several times; its value is a list then.
        """
        said = meaning if default in (None, SUPPRESS) else f"{meaning} (default: {default})"
        if topic and topic not in self._topics:
            self._topics[topic] = self.add_argument_group(topic)
        self._topics.get(topic, self).add_argument(
            f"--{name}", type=read or text, default=default, metavar=shown, action=action, help=said.replace("%", "%%")
        )

    def flag(self, name: str, meaning: str) -> None:
        """Declares `--name`, which takes no value."""
        self.add_argument(f"--{name}", action="store_true", help=meaning)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The values of the options, and the arguments without a name as `places`.

        Raises:
            ConfigError: An unknown option, a wrong value, or another number of arguments without a name.
        """
        found, rest = self.split(words)
        for word in rest:
            if word.startswith("-"):
                self.refuse(word)
        wanted = " ".join(self.places) or "options alone"
        most = math.inf if wanted.endswith("...") else len(self.places)
        if not self._least <= len(rest) <= most:
            self.error(f"expected {wanted}, got {' '.join(rest) or 'nothing'}")
        found.places = rest
        return found

    def split(self, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The values of the options, and the words that belong to none of them. Raises ConfigError for a wrong value.

        In the name of an option, `-` and `_` mean the same.
        """
        known = {name.replace("_", "-"): name for name in self.names()}
        parts = [word.partition("=") for word in words]
        return self.parse_known_args([known.get(name.replace("_", "-"), name) + eq + x for name, eq, x in parts])

    def names(self) -> list[str]:
        """The names of the options, with their dashes."""
        return [name for action in self._actions for name in action.option_strings]

    def refuse(self, word: str, others: Iterable[str] = ()) -> NoReturn:
        """Raises ConfigError for an unknown option, with the nearest one; `others` are options too, of another kind."""
        name = word.partition("=")[0]
        remedy = suggestion(name, [*self.names(), *others], f"`{self.prog} --help` lists them")
        raise ConfigError(f"{self.command}: expected one of its options, got {name}; {remedy}")

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        said = message.replace("argument --", "option --", 1)
        said = said.replace("expected one argument", f"expected {self._shown(said)}, got nothing")
        joint = ", " if said.startswith("option") else ": "
        see = "" if said.endswith("?") else f"; see `{self.prog} --help`"
        raise ConfigError(f"{self.command}{joint}{said}{see}")

    def _shown(self, said: str) -> str:
        """The words that the option of a message may have, or `a value`."""
        names = [x.metavar for x in self._actions if f"option {'/'.join(x.option_strings)}:" in said]
        return " or ".join(names[0].split("|")) if names and "|" in str(names[0]) else "a value"


def hung(text: str, indent: int) -> str:
    """`text` in lines of a help page; all but the first are indented by `indent` columns."""
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def suggestion(name: str, allowed: Collection[str], otherwise: str, cutoff: float = 0.6) -> str:
    """As `mada_optim.checks.did_you_mean`, whose import of torch a help page doesn't wait for."""
    from mada_optim.checks import did_you_mean

    return did_you_mean(name, allowed, otherwise, cutoff)


def text(given: str) -> str:
    """Reads a text that isn't empty."""
    if not given:
        raise ArgumentTypeError("expected a value, got none")
    return given


def path(given: str) -> Path:
    """Reads a path."""
    return Path(text(given))


def one_of(*allowed: str) -> Callable[[str], str]:
    """Reads one of some words."""

    def read(given: str) -> str:
        if given not in allowed:
            near = suggestion(given, allowed, "choose one of them")
            raise ArgumentTypeError(f"expected {' or '.join(allowed)}, got {given}; {near}")
        return given

    return read


def some_of(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    """Reads some of these words, with commas between."""
    return lambda given: tuple(map(one_of(*allowed), given.split(",")))


def integer(given: str) -> int:
    """The whole number that `5000` or `5e3` stands for. Raises ValueError for another text."""
    if "e" not in given.lower():
        return int(given)
    value = float(given)
    if "e-" in given.lower() or not value.is_integer():
        raise ValueError(f"expected a whole number, got {given}")
    return int(value)


def whole(low: int = 0, high: int = LARGEST) -> Callable[[str], int]:
    """Reads a whole number in [low, high]."""

    def read(given: str) -> int:
        try:
            plain = len(given) <= DIGITS and given.lower().replace("e", "", 1).isdecimal()
            value = integer(given) if plain else -1
        except ValueError:
            value = -1
        if not low <= value <= high:
            allowed = f"at least {low}" if high == LARGEST else f"in [{low}, {high}]"
            raise ArgumentTypeError(f"expected a whole number {allowed}, got {given}")
        return value

    return read


def number(low: float = 0.0, high: float = math.inf) -> Callable[[str], float]:
    """Reads a finite number above `low`, and `high` at most."""

    def read(given: str) -> float:
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low < value <= high):
            allowed = f"above {low:g}" if high == math.inf else f"above {low:g}, {high:g} at most"
            raise ArgumentTypeError(f"expected a finite number {allowed}, got {given}")
        return value

    return read


def seeds(given: str) -> list[int]:
    """Reads distinct seeds, with commas between."""
    found = [whole()(part) for part in given.split(",")]
    if len(set(found)) < len(found):
        raise ArgumentTypeError(f"expected distinct seeds, got {given}")
    return found
