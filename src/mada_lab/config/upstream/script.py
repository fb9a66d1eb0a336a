"""The training script that a Python configuration belongs to: how it counts, and what it does where the file is silent.

A file of the authors' train_ddp.py is told by the micro-batches that it counts; all others are nanoGPT's. The optimizer
of either is that of train_ddp.py.
"""

from collections.abc import Mapping
from pathlib import Path

from mada_lab.config.python_files import Assignment
from mada_lab.config.upstream import facts
from mada_lab.config.upstream.facts import (
    ACCUMULATION,
    NANOGPT,
    OPTIMIZER,
    ROUNDED_UP,
    SCHEDULE,
    SIZES,
    START,
    TRAIN_DDP,
    Script,
)
from mada_lab.config.upstream.translation import Said, Translation, listed

FRESH = ("scratch", "resume")
DECAYS = ("lr_decay_iters", "min_lr")


def complete(file: Mapping[str, Assignment], path: Path, start: Said | None, translation: Translation) -> None:
    """Adds to `translation` what the script of a file says, in optimizer steps.

    Args:
        file: The assignments in it.
        path: Where they stand.
        start: The value of `hypergrad_init_iter`, if it is given.
        translation: Has the keys that the file and the command line give.

    Raises:
        ConfigError: A number of micro-batches isn't one of optimizer steps.
    """
    _drop_idle(translation)
    why = _counts_micro_batches(file, start)
    script = TRAIN_DDP if why else NANOGPT
    sizes = SIZES if translation.given("init_from", "scratch") not in FRESH else ()
    defaults = {key: x for key, x in script.defaults.items() if not translation.is_given(key) and key not in sizes}
    translation.supplied |= defaults
    if why:
        _convert(path, start, script, why, translation)
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
    """Takes out the keys of a file that its scripts read only if the learning rate decays."""
    if str(translation.given("decay_lr", True)).lower() != "false":
        return
    for key in DECAYS:
        if key in translation.values:
            said = Said(translation.values.pop(key), translation.where.pop(key))
            translation.notes.append(f"{said.where}: {key}={said.value!r}: no effect beside decay_lr=False")


def _learned(translation: Translation) -> str:
    """The names of what is learned, by the key `learn` or without it."""
    default = "none" if translation.given("coefficients_from") else "all"
    return translation.given("learn") or default


def _counts_micro_batches(file: Mapping[str, Assignment], start: Said | None) -> str:
    """Why the iterations in a file are micro-batches; empty if they are optimizer steps."""
    if start is not None:
        return f"{START} is a key of it alone"
    computed = [key for key in (*SCHEDULE, *ROUNDED_UP) if key in file and ACCUMULATION in _sources(file, key)]
    return f"{computed[0]} is computed from {ACCUMULATION}" if computed else ""


def _sources(file: Mapping[str, Assignment], key: str) -> set[str]:
    """The names that the value of `key` was computed from, by way of others too."""
    found: set[str] = set()
    waiting = [key]
    while waiting:
        new = file[waiting.pop()].names - found
        found |= new
        waiting += new
    return found


def _convert(path: Path, start: Said | None, script: Script, why: str, translation: Translation) -> None:
    """Micro-batches to optimizer steps, and the accumulation of one process to that of all."""
    accumulation = translation.values.get(ACCUMULATION, script.defaults[ACCUMULATION])
    if type(accumulation) is not int or accumulation < 1:
        return  # it is refused with the other values of a wrong type or size
    shown = {}
    for keys in (translation.values, translation.supplied):
        for key in (*SCHEDULE, *ROUNDED_UP):
            if type(keys.get(key)) is int:
                where = translation.where.get(key, f"{path}, by default of {script.name}")
                keys[key] = shown[key] = _steps(key, Said(keys[key], where), accumulation)
        if ACCUMULATION in keys:
            keys[ACCUMULATION] = shown[ACCUMULATION] = accumulation * script.processes
    translation.notes.append(
        f"{path}: iterations are micro-batches, as in {script.name} ({why}), {accumulation} to a step in each of its "
        f"{script.processes} processes: in steps and for all processes, {listed(shown)}"
    )
    if start is not None:
        _begin(start, _steps(START, start, accumulation), translation)


def _begin(start: Said, steps: int, translation: Translation) -> None:
    """Takes over the start of the hyper-steps, where the authors' optimizer learns by them."""
    beside = {key: translation.given(key) for key in ("optimizer", "learn", "hyper_start")}
    learns = beside["optimizer"] in (None, OPTIMIZER) and _learned(translation) != "none"
    note = f"{start.where}: {START}={start.value}: hyper_start={steps}"
    if learns and beside["hyper_start"] is None:
        translation.add("hyper_start", steps, start)
    else:
        note = f"{note}, not taken over beside {listed(beside)}"
    translation.notes.append(note)


def _steps(key: str, said: Said, accumulation: int) -> int:
    if key in SCHEDULE and said.value % accumulation:
        expected = f"a multiple of {ACCUMULATION}={accumulation}, as it counts micro-batches"
        ours = "--hyper_start" if key == START else f"--{key}"
        raise said.refused(key, expected, str(said.value), f"correct it, or give {ours} in optimizer steps")
    return -(-int(said.value) // accumulation)
