"""Translates nanoGPT's and the authors' configurations and flags into our keys (`facts`).

Keys of ours on the command line keep our meaning, whatever the file.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mada_lab.config.python_files import Assignment
from mada_lab.config.upstream import script
from mada_lab.config.upstream.facts import START, THEIRS
from mada_lab.config.upstream.translation import COMMAND_LINE, Setting, Translation, keys_in
from mada_lab.system.optional import installed

WORDS = {"true": True, "false": False}
EXPECTED = {bool: "true or false", int: "a whole number", str: "text"}


def translate(
    file: Mapping[str, Assignment],
    path: Path | None,
    words: Sequence[str],
    ours: Collection[str],
    is_script: bool = False,
) -> Translation:
    """Translates the assignments in a Python file, and the command line beside it.

    Args:
        file: The assignments.
        path: The path of the file; None if there is none.
        words: The command line.
        ours: The keys of this application.
        is_script: Whether the file belongs to a script that trains a GPT (`script`).

    Raises:
        ConfigError: A value of another type, contradicting values, or something that isn't done here.
    """
    flags, rest = _flags(words, ours)
    translation = Translation(rest)
    used = {name for target, x in file.items() for name in x.names - {target}}
    helpers = used - THEIRS.keys() - {*ours}  # no keys, but parts of other values
    theirs = {}
    for name, assignment in file.items():
        setting = Setting(assignment.value, f"{path}, line {assignment.line}")
        if name in THEIRS and name not in ours:
            theirs[name] = setting
        elif name not in helpers:
            translation.add(name, setting.value, setting.where)
    if helpers:
        translation.notes.append(f"{path}: {', '.join(sorted(helpers))}: no keys, but parts of other values")
    theirs |= flags
    if START in theirs and not is_script:
        expected, got = "a key of images", "one of train_ddp.py"
        if path is None:
            expected, got = "it beside the Python file whose micro-batches it counts", "none"
        raise theirs[START].refused(START, expected, got, "use --hyper_start, in optimizer steps")
    _answer(theirs, translation)
    if path is not None and is_script:
        script.complete(file, path, theirs.get(START), translation)
    return translation


def _flags(words: Sequence[str], ours: Collection[str]) -> tuple[dict[str, Setting], list[str]]:
    """Their keys on the command line, and the other words. A flag without a value is True."""
    flags, rest, waiting = {}, [], list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in THEIRS or name in ours:
            rest.append(word)
            continue
        if not equals:
            text = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        flags[name] = Setting(_parsed(name, text), COMMAND_LINE)
    return flags, rest


def _parsed(name: str, text: str) -> Any:
    """`text` as a value of their key, or `text` itself, which `_answer` refuses as of a wrong type."""
    if THEIRS[name].type is bool:
        return WORDS.get(text.lower(), text)
    return int(text) if THEIRS[name].type is int and text.isdecimal() else text


def _answer(theirs: Mapping[str, Setting], translation: Translation) -> None:
    """Translates their keys, but for START. Each is noted, or refused."""
    taken: dict[str, tuple[Any, str]] = {}
    anyway = []
    for name, setting in theirs.items():
        key = THEIRS[name]
        if type(setting.value) is not key.type:
            raise setting.refused(name, EXPECTED[key.type], repr(setting.value), "correct the value")
        if setting.value in key.refused:
            raise setting.refused(name, str(key.same), str(setting.value), key.refused[setting.value])
        keys = key.keys.get(setting.value, {})
        if keys and key.package and setting.where != COMMAND_LINE and not installed(key.package):
            lacking = f"the package {key.package} isn't installed, so this is not done"
            translation.notes.append(f"{setting.where}: {name}={setting.value!r}: {key.meaning}; {lacking}")
            continue
        for ours, value in keys.items():
            if taken.setdefault(ours, (value, name))[0] != value:
                raise setting.refused(name, f"one value of {ours}", f"another by {taken[ours][1]}")
            _require_free(ours, value, name, setting, translation)
            translation.add(ours, value, setting.where)
        if key.same is not None and setting.value == key.same:
            anyway.append(f"{name}={setting.value}")
        elif name != START:
            translation.notes.append(f"{setting.where}: {name}={setting.value!r}: {key.meaning}")
    if anyway:
        translation.notes.append(f"{', '.join(anyway)}: as here in any case")


def _require_free(ours: str, value: Any, name: str, setting: Setting, translation: Translation) -> None:
    """Raises ConfigError if `ours` stands beside their key with another value."""
    beside = keys_in(translation.words) if setting.where == COMMAND_LINE else translation.values
    if str(beside.get(ours, value)) != str(value):
        raise setting.refused(name, f"{ours}={value}, which it stands for", f"{ours}={beside[ours]} beside it")
