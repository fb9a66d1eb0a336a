"""The result of a translation of nanoGPT's and the authors' keys, as it is put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mada_lab.errors import ConfigError

COMMAND_LINE = "the command line"


@dataclass(frozen=True)
class Setting:
    """The value of a key, and its place."""

    value: Any
    where: str

    def refused(self, key: str, expected: str, got: str, remedy: str = "leave one of them out") -> ConfigError:
        """The error about this value of `key`."""
        return ConfigError(f"configuration, in {self.where}, key {key}: expected {expected}, got {got}; {remedy}")


@dataclass
class Translation:
    """A file and a command line, in our keys."""

    words: list[str]  #: the command line
    values: dict[str, Any] = field(default_factory=dict)  #: the keys of the file
    where: dict[str, str] = field(default_factory=dict)  #: by key of the file, its place, for messages
    supplied: dict[str, Any] = field(default_factory=dict)  #: values of keys that neither gives
    notes: list[str] = field(default_factory=list)  #: sentences about what was translated

    def add(self, key: str, value: Any, where: str) -> None:
        """Sets `key` where their key stands: on the command line or in the file."""
        if where == COMMAND_LINE:
            self.words.append(f"--{key}={value}")
        else:
            self.values[key], self.where[key] = value, where

    def given(self, key: str, default: Any = None) -> Any:
        """The value of `key` on the command line, as text, or else in the file."""
        return keys_in(self.words).get(key, self.values.get(key, default))

    def is_given(self, key: str) -> bool:
        """Whether the command line or the file has `key`."""
        return key in self.values or key in keys_in(self.words)


def keys_in(words: Sequence[str]) -> dict[str, str]:
    """The keys in `--key=value` and `--key value`, and their values."""
    keys = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            keys[key.replace("-", "_")] = value if equals else following
    return keys


def listed(keys: Mapping[str, Any]) -> str:
    """`key=value, ...`, without values None; a value with commas is in quotation marks."""
    texts = {key: f'"{value}"' if "," in str(value) else str(value) for key, value in keys.items() if value is not None}
    return ", ".join(f"{key}={text}" for key, text in texts.items())
