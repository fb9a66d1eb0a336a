"""Translates nanoGPT's and the authors' configurations, and flags of theirs, into our keys (`upstream_keys`).

Keys of ours on the command line keep our meaning, whatever the file.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mada_lab.config.python_files import Assignment
from mada_lab.config.upstream import script
from mada_lab.config.upstream.facts import START, THEIRS
from mada_lab.config.upstream.translation import COMMAND_LINE, Said, Translation, keys_in
from mada_lab.system.optional import installed

WORDS = {"true": True, "false": False}
EXPECTED = {bool: "true or false", int: "a whole number", str: "text"}


def translate_words(words: Sequence[str], ours: Collection[str]) -> Translation:
    """The command line alone, where there is no Python file.

    Raises:
        ConfigError: A value of another type, values that contradict each other, or something that isn't done here.
    """
    flags, rest = _flags(words, ours)
    _require_script(flags, "it beside the Python file whose micro-batches it counts", "none")
    translation = Translation(rest)
    _answer(flags, translation)
    return translation


def translate(
    file: Mapping[str, Assignment], path: Path, words: Sequence[str], ours: Collection[str], is_script: bool
) -> Translation:
    """The assignments in the Python file at `path`, and the command line beside it.

    Args:
        file: The assignments.
        path: Where they stand.
        words: The command line.
        ours: The keys of this application.
        is_script: Whether the file is taken as one of a script that trains a GPT (`upstream_script`).

    Raises:
        ConfigError: A value of another type, values that contradict each other, or something that isn't done here.
    """
    flags, rest = _flags(words, ours)
    translation = Translation(rest)
    helpers = _helpers(file, ours)
    theirs = {}
    for name, assignment in file.items():
        said = Said(assignment.value, f"{path}, line {assignment.line}")
        if name in THEIRS and name not in ours:
            theirs[name] = said
        elif name not in helpers:
            translation.add(name, said.value, said)
    if helpers:
        translation.notes.append(f"{path}: {', '.join(sorted(helpers))}: no keys, but parts of other values")
    theirs |= flags
    if not is_script:
        _require_script(theirs, "a key of images", "one of train_ddp.py")
    _answer(theirs, translation)
    if is_script:
        script.complete(file, path, theirs.get(START), translation)
    return translation


def _flags(words: Sequence[str], ours: Collection[str]) -> tuple[dict[str, Said], list[str]]:
    """Their keys on the command line, and the other words. A flag without a value is True."""
    found, rest, waiting = {}, [], list(words)
    while waiting:
        word = waiting.pop(0)
        name, there, text = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in THEIRS or name in ours:
            rest.append(word)
            continue
        if not there:
            text = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        found[name] = Said(_parsed(name, text), COMMAND_LINE)
    return found, rest


def _parsed(name: str, text: str) -> Any:
    """`text` as a value of their key, or `text` itself, which is refused with the others of a wrong type."""
    if THEIRS[name].type is bool:
        return WORDS.get(text.lower(), text)
    return int(text) if THEIRS[name].type is int and text.isdecimal() else text


def _helpers(file: Mapping[str, Assignment], ours: Collection[str]) -> set[str]:
    """The names in a file that are no keys, and that other values are computed from."""
    used = {name for target, x in file.items() for name in x.names - {target}}
    return {name for name in used if name not in THEIRS and name not in ours}


def _require_script(theirs: Mapping[str, Said], expected: str, got: str) -> None:
    """Raises ConfigError for the key that says nothing without a script's file."""
    if START in theirs:
        raise theirs[START].refused(START, expected, got, "use --hyper_start, in optimizer steps")


def _answer(theirs: Mapping[str, Said], translation: Translation) -> None:
    """Takes over what their keys say, START apart. Each is noted, or refused."""
    taken: dict[str, tuple[Any, str]] = {}
    anyway = []
    for name, said in theirs.items():
        key = THEIRS[name]
        if type(said.value) is not key.type:
            raise said.refused(name, EXPECTED[key.type], repr(said.value), "correct the value")
        if said.value in key.refused:
            raise said.refused(name, str(key.same), str(said.value), key.refused[said.value])
        keys = key.keys.get(said.value, {})
        if keys and key.package and said.where != COMMAND_LINE and not installed(key.package):
            lacking = f"the package {key.package} isn't installed, so this is not done"
            translation.notes.append(f"{said.where}: {name}={said.value!r}: {key.meaning}; {lacking}")
            continue
        for ours, value in keys.items():
            if taken.setdefault(ours, (value, name))[0] != value:
                raise said.refused(name, f"one value of {ours}", f"another by {taken[ours][1]}")
            _require_free(ours, value, name, said, translation)
            translation.add(ours, value, said)
        if key.same is not None and said.value == key.same:
            anyway.append(f"{name}={said.value}")
        elif name != START:
            translation.notes.append(f"{said.where}: {name}={said.value!r}: {key.meaning}")
    if anyway:
        translation.notes.append(f"{', '.join(anyway)}: as here in any case")


def _require_free(ours: str, value: Any, name: str, said: Said, translation: Translation) -> None:
    """Raises ConfigError if `ours` stands beside their key with another value."""
    beside = keys_in(translation.words) if said.where == COMMAND_LINE else translation.values
    if str(beside.get(ours, value)) != str(value):
        raise said.refused(name, f"{ours}={value}, which it stands for", f"{ours}={beside[ours]} beside it")
