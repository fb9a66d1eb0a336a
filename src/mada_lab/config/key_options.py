"""The keys of a configuration as options of a command line, grouped by topic."""

import typing
from argparse import SUPPRESS
from collections.abc import Callable
from types import NoneType
from typing import Any, get_args

from mada_lab.config.arguments import Arguments
from mada_lab.config.declarations import Topic, declarations, defaults, meanings
from mada_lab.config.keys import RunConfig, TrainConfig, VisionConfig

#: The command of each kind of configuration.
COMMANDS: dict[type[RunConfig], str] = {TrainConfig: "train", VisionConfig: "vision"}
#: What each command does, and an example of it.
ABOUT = {
    "train": (
        "Train a GPT on text. By default it has 0.8M parameters and trains on text that ships with Python, in minutes "
        "on a laptop.",
        "mada-lab train --dataset=pydoc --optimizer=mada --learning_rate=1e-3 --max_iters=500",
    ),
    "vision": (
        "Train a network on images. By default it is a small CNN on scikit-learn's digits, which takes seconds.",
        "mada-lab vision --dataset=digits --model=mlp --max_iters=100",
    ),
}
CONFIG = {
    "[CONFIG]": "A file of keys: .toml, or .py as nanoGPT and the MADA authors have it, which is read without being "
    "run (docs/lab/upstream.md). Keys on the command line replace those of the file."
}
SHOWN = {bool: "true|false", int: "N", float: "X", str: "TEXT"}
LONGEST_CHOICES = 40  # columns


def key_options(kind: type[RunConfig], read: Callable[[str, str], Any]) -> Arguments:
    """The arguments of the command that takes the keys of `kind`; `read` gives the value of a key from its text.

    A key that isn't on the command line isn't in the result.
    """
    command = COMMANDS[kind]
    made = Arguments(command, *ABOUT[command], CONFIG, least=0)
    types, said, usual = typing.get_type_hints(kind), meanings(kind), defaults(kind)
    by_topic = sorted(declarations(kind).items(), key=lambda item: list(Topic).index(item[1].topic))
    for key, declared in by_topic:
        meaning = f"{said[key]} (default: {usual[key]})"
        reads = lambda text, key=key: read(key, text)  # noqa: E731
        made.option(key, meaning, reads, SUPPRESS, _shown(types[key]), declared.topic.value)
    return made


def _shown(annotation: Any) -> str:
    """What stands for a value of this type in the help."""
    parts = [x for x in get_args(annotation) or (annotation,) if x is not NoneType]
    choices = "|".join(dict.fromkeys(SHOWN.get(x) or (x if isinstance(x, str) else _shown(x)) for x in parts))
    return choices if len(choices) <= LONGEST_CHOICES else "NAME"
