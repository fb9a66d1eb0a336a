"""The training script that a Python configuration belongs to: what it counts, and its defaults.

A file that counts micro-batches is one of the authors' train_ddp.py; all others are nanoGPT's. The optimizer of both is
that of train_ddp.py.
"""

from collections.abc import Mapping
from pathlib import Path

from mada_lab.config.keys import FRESH
from mada_lab.config.python_files import Assignment
from mada_lab.config.upstream import facts
from mada_lab.config.upstream.facts import ACCUMULATION, NANOGPT, OPTIMIZER, ROUNDED_UP, SCHEDULE, START, TRAIN_DDP
from mada_lab.config.upstream.translation import Setting, Translation, listed

DECAYS = ("lr_decay_iters", "min_lr")


def complete(file: Mapping[str, Assignment], path: Path, start: Setting | None, translation: Translation) -> None:
    """Adds the defaults of a file's script to `translation`, and turns micro-batches into optimizer steps.

    Args:
        file: The assignments in it.
        path: Its path.
        start: The value of `hypergrad_init_iter`, if it is given.
        translation: Has the keys of the file and of the command line.

    Raises:
        ConfigError: A number of micro-batches isn't a whole number of steps.
    """
    _drop_idle(translation)
    why = _counts_micro_batches(file, start)
    script = TRAIN_DDP if why else NANOGPT
    sizes = facts.SIZES if translation.given("init_from", "scratch") not in FRESH else ()
    defaults = {key: x for key, x in script.defaults.items() if not translation.is_given(key) and key not in sizes}
    translation.supplied |= defaults
    if why:
        _convert(path, start, why, translation)
    elif translation.values.get(ACCUMULATION, 1) != 1:
        translation.notes.append(f"{path}: iterations are optimizer steps, as in {script.name}")
    if defaults:
        shown = listed({key: translation.supplied[key] for key in defaults})
        translation.notes.append(f"{path}: left out, so as in {script.name}: {shown}")
    if translation.given("optimizer", OPTIMIZER) == OPTIMIZER:
        numbers = facts.optimizer(_learned(translation))
        numbers = {key: x for key, x in numbers.items() if not translation.is_given(key)}
        translation.supplied |= numbers
        if numbers:
            translation.notes.append(f"{path}: the optimizer is that of {TRAIN_DDP.name}: {listed(numbers)}")


def _drop_idle(translation: Translation) -> None:
    """Removes the keys of a file that its scripts read only if the learning rate decays."""
    if str(translation.given("decay_lr", True)).lower() != "false":
        return
    for key in DECAYS:
        if key in translation.values:
            value, where = translation.values.pop(key), translation.where.pop(key)
            translation.notes.append(f"{where}: {key}={value!r}: no effect beside decay_lr=False")


def _learned(translation: Translation) -> str:
    """The learned coefficients, as the key `learn` names them."""
    return translation.given("learn") or ("none" if translation.given("coefficients_from") else "all")


def _counts_micro_batches(file: Mapping[str, Assignment], start: Setting | None) -> str:
    """The sign that the iterations in a file are micro-batches; empty if they are optimizer steps."""
    if start is not None:
        return f"{START} is a key of it alone"
    computed = [key for key in (*SCHEDULE, *ROUNDED_UP) if key in file and ACCUMULATION in _sources(file, key)]
    return f"{computed[0]} is computed from {ACCUMULATION}" if computed else ""


def _sources(file: Mapping[str, Assignment], key: str) -> set[str]:
    """The names that the value of `key` was computed from, directly or through other names."""
    sources: set[str] = set()
    waiting = [key]
    while waiting:
        new = file[waiting.pop()].names - sources
        sources |= new
        waiting += new
    return sources


def _convert(path: Path, start: Setting | None, why: str, translation: Translation) -> None:
    """Turns micro-batches into optimizer steps, and the accumulation of one process into that of all."""
    script = TRAIN_DDP
    accumulation = translation.values.get(ACCUMULATION, script.defaults[ACCUMULATION])
    if type(accumulation) is not int or accumulation < 1:
        return  # `parsing` refuses it, with all values of a wrong type or size
    shown = {}
    for keys in (translation.values, translation.supplied):
        for key in (*SCHEDULE, *ROUNDED_UP):
            if type(keys.get(key)) is int:
                where = translation.where.get(key, f"{path}, by default of {script.name}")
                keys[key] = shown[key] = _steps(key, Setting(keys[key], where), accumulation)
        if ACCUMULATION in keys:
            keys[ACCUMULATION] = shown[ACCUMULATION] = accumulation * script.processes
    translation.notes.append(
        f"{path}: iterations are micro-batches, as in {script.name} ({why}), {accumulation} to a step in each of its "
        f"{script.processes} processes: in steps and for all processes, {listed(shown)}"
    )
    if start is not None:
        _begin(start, _steps(START, start, accumulation), translation)


def _begin(start: Setting, steps: int, translation: Translation) -> None:
    """Sets hyper_start, if the optimizer is the authors' and learns."""
    beside = {key: translation.given(key) for key in ("optimizer", "learn", "hyper_start")}
    learns = beside["optimizer"] in (None, OPTIMIZER) and _learned(translation) != "none"
    note = f"{start.where}: {START}={start.value}: hyper_start={steps}"
    if learns and beside["hyper_start"] is None:
        translation.add("hyper_start", steps, start.where)
    else:
        note = f"{note}, not taken over beside {listed(beside)}"
    translation.notes.append(note)


def _steps(key: str, count: Setting, accumulation: int) -> int:
    if key in SCHEDULE and count.value % accumulation:
        expected = f"a multiple of {ACCUMULATION}={accumulation}, as it counts micro-batches"
        ours = "--hyper_start" if key == START else f"--{key}"
        raise count.refused(key, expected, str(count.value), f"correct it, or give {ours} in optimizer steps")
    return -(-int(count.value) // accumulation)
