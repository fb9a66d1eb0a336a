"""What nanoGPT's and the authors' keys become, as it is put together by `upstream`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mada_lab.errors import ConfigError

COMMAND_LINE = "the command line"


@dataclass(frozen=True)
class Said:
    """The value of a key, and where it stands."""

    value: Any
    where: str

    def refused(self, key: str, expected: str, got: str, remedy: str = "leave one of them out") -> ConfigError:
        """The error about this value of `key`."""
        return ConfigError(f"configuration, in {self.where}, key {key}: expected {expected}, got {got}; {remedy}")


@dataclass
class Translation:
    """What a file and a command line say, in our keys.

    Attributes:
        words: The command line.
        values: The keys of the file.
        where: By key of the file, its place, for messages.
        supplied: Values of keys that neither gives.
        notes: What was translated, a sentence each.
    """

    words: list[str]
    values: dict[str, Any] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    supplied: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, value: Any, said: Said) -> None:
        """Takes over `key`, where their key stands: on the command line or in the file."""
        if said.where == COMMAND_LINE:
            self.words.append(f"--{key}={value}")
        else:
            self.values[key], self.where[key] = value, said.where

    def given(self, key: str, default: Any = None) -> Any:
        """The value of `key` on the command line, as text, or else in the file."""
        return keys_in(self.words).get(key, self.values.get(key, default))

    def is_given(self, key: str) -> bool:
        """Whether the command line or the file has `key`."""
        return key in self.values or key in keys_in(self.words)


def keys_in(words: Sequence[str]) -> dict[str, str]:
    """The keys in `--key=value` and `--key value`, and their values."""
    found = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word.startswith("--"):
            key, there, value = word[2:].partition("=")
            found[key.replace("-", "_")] = value if there else following
    return found


def listed(keys: Mapping[str, Any]) -> str:
    """`key=value, ...`, without those that are None; a value with commas stands in quotation marks."""
    texts = {key: f'"{value}"' if "," in str(value) else str(value) for key, value in keys.items() if value is not None}
    return ", ".join(f"{key}={text}" for key, text in texts.items())
