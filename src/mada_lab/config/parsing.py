"""From a file and a command line to a checked configuration. Everything read is data; nothing is executed."""

import contextlib
import functools
import math
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from mada_lab.config import by_coefficient, files, python_files
from mada_lab.config.arguments import Arguments, integer
from mada_lab.config.declarations import Key, aliases, declarations, meanings
from mada_lab.config.key_options import COMMANDS, key_options
from mada_lab.config.keys import RunConfig, TrainConfig
from mada_lab.config.upstream.translate import translate
from mada_lab.config.upstream.translation import keys_in
from mada_lab.errors import ConfigError
from mada_optim.checks import POSITIVE, did_you_mean
from mada_optim.rule import Interval

C = TypeVar("C", bound=RunConfig)


@functools.cache
def keys(kind: type[RunConfig]) -> Mapping[str, Any]:
    """The keys of a kind of configuration, and their types."""
    return typing.get_type_hints(kind)


@dataclass(frozen=True)
class Request:
    """A file and a command line, in our keys."""

    values: dict[str, Any]  #: keys and values from the file, each of its right type
    words: list[str]  #: the command line
    keys: set[str]  #: the keys that one of the two gives, whatever their values
    tables: dict[str, Any]  #: tables of the file that aren't keys of the configuration, by name
    notes: list[str]  #: sentences about keys that were translated (`upstream`)


def load(arguments: Sequence[str], kind: type[C] = TrainConfig) -> C:  # type: ignore[assignment] # mypy#3737
    """The configuration that `[FILE] --key=value ...` names: defaults, then the file, then the command line.

    Raises:
        ConfigError: An unknown key, a value of the wrong type, or values that don't go together.
    """
    asked = request(arguments, kind)
    config = configured(asked, kind)
    require_effect(config, asked.keys)
    return config


def configured(asked: Request, kind: type[C]) -> C:
    """The checked configuration of a request. Raises ConfigError as `load`."""
    config = parse_arguments(asked.words, replace(kind(), **asked.values))
    check(config)
    return config


def request(arguments: Sequence[str], kind: type[RunConfig] = TrainConfig, tables: Collection[str] = ()) -> Request:
    """The request of `[FILE] --key=value ...`; FILE is TOML, or Python as nanoGPT has it (`python_files`).

    Args:
        arguments: The file, if there is one, and the command line.
        kind: The configuration whose keys they are.
        tables: Tables that a TOML file may have beside the keys.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type, in the file.
    """
    file = Path(arguments[0]) if arguments and not arguments[0].startswith("-") else None
    words, ours = arguments[file is not None :], keys(kind)
    content: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    if file is not None and file.suffix == ".py":
        assigned = python_files.assignments(files.content(file), file)
        translation = translate(assigned, file, words, ours, issubclass(kind, TrainConfig))
    else:
        translation = translate({}, None, words, ours)
        content = {} if file is None else files.tables(file)
        beside = {name: content.pop(name) for name in tables if name in content}
    supplied = typed(translation.supplied, f"{file}, as its script has it", kind)
    values = typed(content, str(file), kind)
    for key, value in translation.values.items():
        values[key] = _typed(key, value, translation.where[key], kind, or_none=True)
    given = {*values, *keys_in(translation.words)} & ours.keys()
    return Request({**supplied, **values}, translation.words, given, beside, translation.notes)


def require_effect(config: RunConfig, given: Collection[str]) -> None:
    """Raises ConfigError if a key in `given` has no effect beside the other values."""
    without = {key: why for key, why in idle(config).items() if getattr(config, key) is not None}
    if problems := [without[key] for key in sorted(without) if key in given]:
        raise ConfigError("; ".join(problems) + f"; leave {_these(problems)} out")


def idle(config: RunConfig) -> dict[str, str]:
    """The keys that have no effect beside other values, each with its refusal, but for those of optimizers."""
    return {
        key: f"{key}: expected {other}={' or '.join(map(str, allowed))} beside it, got {other}={getattr(config, other)}"
        for key, declared in declarations(type(config)).items()
        for other, allowed in declared.needs.items()
        if getattr(config, other) not in allowed
    }


def from_values(values: dict[str, Any], where: str, kind: type[C] = TrainConfig) -> C:  # type: ignore[assignment]
    """The configuration with these keys, as a checkpoint holds them; `where` is for messages. Raises as `load`."""
    config = replace(kind(), **{key: _typed(key, value, where, kind, or_none=True) for key, value in values.items()})
    check(config)
    return config


def typed(values: dict[str, Any], where: str, kind: type[RunConfig] = TrainConfig) -> dict[str, Any]:
    """`values`, each of its key's type. Raises ConfigError: an unknown key, or a value of the wrong type."""
    return {key: _typed(key, value, where, kind) for key, value in values.items()}


def _typed(key: str, value: Any, where: str, kind: type[RunConfig], or_none: bool = False) -> Any:
    """`value` as the key's type; with `or_none`, None where the key may have it."""
    require_known(key, where, kind)
    annotation = keys(kind)[key]
    if isinstance(value, dict) and declarations(kind)[key].by_coefficient:
        value = by_coefficient.as_text(value)
    if value is None and or_none and NoneType in get_args(annotation):
        return None
    if not _fits(value, annotation):
        expected = f"expected {_described(annotation)}, got {value!r}"
        raise ConfigError(f"configuration, in {where}, key {key}: {expected}; correct the value")
    return float(value) if float in _options(annotation) and not isinstance(value, str) else value


def parse_value(key: str, text: str, kind: type[RunConfig] = TrainConfig) -> Any:
    """The value that `text` stands for, of the key's type. Raises ConfigError."""
    require_known(key, "the command line", kind)
    annotation = keys(kind)[key]
    words = {"true": True, "false": False}
    if text == "None" and NoneType in get_args(annotation):
        return None
    for read in (integer, float, lambda word: words[word.lower()], str):
        with contextlib.suppress(ValueError, KeyError):
            value = read(text)
            if _fits(value, annotation):
                return _typed(key, value, "the command line", kind)
    what = f"expected {_described(annotation)}, got {text!r}; correct the value"
    raise ConfigError(f"configuration, in the command line, key {key}: {what}")


@functools.cache
def arguments_of(kind: type[RunConfig]) -> Arguments:
    """The arguments of the command that takes the keys of `kind`."""
    return key_options(kind, lambda key, text: parse_value(key, text, kind))


def parse_arguments(arguments: Sequence[str], default: C) -> C:
    """`default`, with the keys on the command line replaced. `--help` prints all keys and exits."""
    options = arguments_of(type(default))
    given, rest = options.split(arguments)
    for word in rest:
        if word == "--" or not word.startswith("--"):
            options.error(f"expected --key=value, got {word}")
        require_known(word[2:].partition("=")[0].replace("-", "_"), "the command line", type(default))
    return replace(default, **vars(given))


def require_known(key: str, where: str, kind: type[RunConfig] = TrainConfig) -> None:
    """Raises ConfigError with the key of this other name and its meaning, or the nearest key, unless `key` is one."""
    if key not in keys(kind):
        otherwise = f"`mada-lab {COMMANDS[kind]} --help` lists the keys"
        meant = aliases(kind).get(key, key)
        remedy = did_you_mean(meant, keys(kind), otherwise, cutoff=0.5)
        if meant != key:
            remedy += f" ({meanings(kind)[meant].partition('. ')[0].rstrip('.')})"
        if others := [command for other, command in COMMANDS.items() if key in keys(other)]:
            remedy = f"it is a key of `mada-lab {others[0]}`"
        raise ConfigError(f"configuration, in {where}: expected a known key, got {key}; {remedy}")


def check(config: RunConfig) -> None:
    """Raises ConfigError with everything that is wrong at once, before anything is allocated."""
    problems = list(_problems(config))
    if problems:
        raise ConfigError("; ".join(problems) + f"; change {_these(problems)}")


def _these(problems: Sequence[str]) -> str:
    return "this key" if len(problems) == 1 else "these keys"


def _problems(config: RunConfig) -> Iterator[str]:
    for key, declared in declarations(type(config)).items():
        yield from _problems_of(key, getattr(config, key), declared)
    if isinstance(config, TrainConfig) and config.n_head >= 1 and config.n_embd % config.n_head:
        yield f"n_embd: expected a multiple of n_head={config.n_head}, got {config.n_embd}"
    peak, lowest = config.learning_rate, config.min_lr
    if config.decay_lr and isinstance(peak, int | float) and lowest is not None and lowest > peak:
        yield f"min_lr: expected at most learning_rate={peak}, got {lowest}"
    if config.first_accumulation is not None and config.first_accumulation > config.gradient_accumulation_steps:
        allowed = f"at most gradient_accumulation_steps={config.gradient_accumulation_steps}"
        yield f"first_accumulation: expected {allowed}, got {config.first_accumulation}"
    if config.grad_clip_of == "each" and config.parallel != "ddp":
        yield f"grad_clip_of: expected whole with parallel={config.parallel}, which shares gradients out, got each"
    if config.grad_clip_of == "each" and config.grad_clip == 0:
        yield "grad_clip_of: expected whole with grad_clip=0, which clips nothing, got each"
    if config.warmup_iters is not None and config.warmup_iters > config.max_iters:
        yield f"warmup_iters: expected at most max_iters={config.max_iters}, got {config.warmup_iters}"
    if config.background_save and config.checkpoint_shards == "each":
        yield "background_save: expected false with checkpoint_shards=each (processes talk as they write), got true"
    if config.out_dir is not None and not config.out_dir.strip():
        yield "out_dir: expected a folder, got an empty name"


def _problems_of(key: str, value: Any, declared: Key) -> Iterator[str]:
    """The problems with the number of a key, or with the numbers of `beta1=5e-4,gamma=0`, one for each coefficient."""
    numbers = {key: value}
    if declared.by_coefficient and isinstance(value, str):
        try:
            values = by_coefficient.read(value, declared.by_coefficient)
        except ValueError as error:
            yield f"{key}: {error}"
            return
        numbers = {f"{key}.{name}": x for name, x in values.items()}
    for label, x in numbers.items():
        if isinstance(x, int | float) and not isinstance(x, bool):
            if not math.isfinite(x):
                yield f"{label}: expected a finite number, got {x}"
            elif declared.allowed is not None and x not in declared.allowed:
                yield f"{label}: expected {_range(declared.allowed, x)}, got {x}"


def _range(allowed: Interval, x: float) -> str:
    """The interval in words; of a wide one, only the end that `x` is beyond."""
    if allowed.high <= 1:
        return f"a number in {allowed}"
    if allowed == POSITIVE:
        return "more than 0"
    return f"at least {allowed.low:g}" if x < allowed.low else f"at most {int(allowed.high)}"


def _options(annotation: Any) -> tuple[Any, ...]:
    """The types in `int | None`, the values in `Literal["a", "b"]`, both of a union of them, or the one type."""
    parts = tuple(x for x in get_args(annotation) if x is not NoneType) or (annotation,)
    return tuple(x for part in parts for x in (get_args(part) if get_origin(part) is Literal else (part,)))


def _fits(value: Any, annotation: Any) -> bool:
    options = _options(annotation)
    if float in options and isinstance(value, int | float) and not isinstance(value, bool):
        return True
    return any(type(value) is x if isinstance(x, type) else value == x for x in options)


def _described(annotation: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return " or ".join(names.get(x, repr(x)) for x in _options(annotation))
