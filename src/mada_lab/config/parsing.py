"""From a file and a command line to a checked configuration. Everything read is data; nothing is executed."""

import contextlib
import io
import math
import re
import typing
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import tyro

from mada_lab.config import by_coefficient, files
from mada_lab.config.declarations import declarations
from mada_lab.config.keys import RunConfig, TrainConfig, VisionConfig
from mada_lab.config.upstream import translate
from mada_lab.config.upstream.translation import keys_in
from mada_lab.errors import ConfigError
from mada_optim.checks import did_you_mean

C = TypeVar("C", bound=RunConfig)

#: What is typed before the keys of each kind.
COMMANDS: dict[type[RunConfig], str] = {TrainConfig: "train", VisionConfig: "vision"}

AT_LEAST_1 = (
    "n_layer n_head n_embd block_size batch_size gradient_accumulation_steps first_accumulation max_iters "
    "eval_interval eval_iters log_interval checkpoint_interval keep_checkpoints digest_interval max_skipped_steps "
    "width depth train_images test_images clamp_interval"
).split()
AT_LEAST_0 = (
    "seed eval_seed warmup_iters lr_decay_iters hyper_start hyper_stop hyper_lr_factor "
    "learning_rate matrix_lr min_lr weight_decay grad_clip eps hyper_lr hyper_clip hyper_reach peak_flops crop_padding "
    "matrix_lr_ratio hyper_fall hyper_rebound"
).split()
SEEDS, LARGEST = ("seed", "eval_seed"), 2**63 - 1
MOST = 2**31 - 1  # of what is counted
BELOW_1 = (
    "dropout label_noise beta1 beta2 beta3 mu hyper_momentum hyper_memory hyper_averaging hyper_rise horizon".split()
)
UP_TO_1 = "rho c gamma omega hyper_freeze".split()


def keys(kind: type[RunConfig]) -> dict[str, Any]:
    """The keys of a kind of configuration, and their types."""
    return typing.get_type_hints(kind)


@dataclass(frozen=True)
class Request:
    """What a file and a command line ask for, in our keys.

    Attributes:
        values: Keys and values from the file, each of its right type.
        words: The command line.
        keys: The keys that one of the two gives, whatever their values.
        tables: Tables of the file that aren't keys of the configuration, by name.
        notes: What is to be said of keys that were translated (`upstream`), a sentence each.
    """

    values: dict[str, Any]
    words: list[str]
    keys: set[str]
    tables: dict[str, Any]
    notes: list[str]


def load(arguments: Sequence[str], kind: type[C] = TrainConfig) -> C:  # type: ignore[assignment] # mypy#3737
    """The configuration that `[FILE] --key=value ...` names: defaults, then the file, then the command line.

    Raises:
        ConfigError: An unknown key, a value of the wrong type, or values that don't go together.
    """
    asked = request(arguments, kind)
    config = configured(asked, kind)
    require_effect(config, asked.keys)
    return config


def given_keys(arguments: Sequence[str], kind: type[RunConfig] = TrainConfig) -> set[str]:
    """The keys that `[FILE] --key=value ...` gives, whatever their values. Raises ConfigError as `load`."""
    return request(arguments, kind).keys


def notes(arguments: Sequence[str], kind: type[RunConfig] = TrainConfig) -> list[str]:
    """What is to be said of `[FILE] --key=value ...`, a sentence each. Raises ConfigError as `request`."""
    return request(arguments, kind).notes


def configured(asked: Request, kind: type[C]) -> C:
    """The checked configuration that is asked for. Raises ConfigError as `load`."""
    config = parse_arguments(asked.words, replace(kind(), **asked.values))
    check(config)
    return config


def request(arguments: Sequence[str], kind: type[RunConfig] = TrainConfig, tables: Collection[str] = ()) -> Request:
    """What `[FILE] --key=value ...` asks for; FILE is TOML, or Python as nanoGPT has it (`config_files`).

    Args:
        arguments: The file, if there is one, and the command line.
        kind: The configuration whose keys they are.
        tables: Tables that a TOML file may have beside the keys.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type, in the file.
    """
    file = Path(arguments[0]) if arguments and not arguments[0].startswith("-") else None
    words, ours = arguments[file is not None :], keys(kind)
    values: dict[str, Any] = {}
    found: dict[str, Any] = {}
    supplied: dict[str, Any] = {}
    if file is not None and files.is_python(file):
        is_script = issubclass(kind, TrainConfig)
        said = translate.translate(files.read_assignments(file), file, words, ours, is_script)
        for key, value in said.values.items():
            values |= _typed_or_none({key: value}, said.where[key], kind)
        supplied = typed(said.supplied, f"{file}, as its script has it", kind)
    else:
        said = translate.translate_words(words, ours)
        content = {} if file is None else files.read_tables(file)
        found = {name: content.pop(name) for name in tables if name in content}
        values = typed(content, str(file), kind)
    given = {*values, *keys_in(said.words)} & ours.keys()
    return Request({**supplied, **values}, said.words, given, found, said.notes)


def require_effect(config: RunConfig, given: Collection[str]) -> None:
    """Raises ConfigError if a key in `given` has no effect beside the other values."""
    without = {key: why for key, why in idle(config).items() if getattr(config, key) is not None}
    if problems := [without[key] for key in sorted(without) if key in given]:
        raise ConfigError("; ".join(problems) + "; leave these keys out")


def idle(config: RunConfig) -> dict[str, str]:
    """The keys that have no effect beside the other values, each with what to say of it; optimizers have others."""
    return {
        key: f"{key}: expected {other}={' or '.join(map(str, allowed))} beside it, got {other}={getattr(config, other)}"
        for key, declared in declarations(type(config)).items()
        for other, allowed in declared.needs.items()
        if getattr(config, other) not in allowed
    }


def from_values(values: dict[str, Any], where: str, kind: type[C] = TrainConfig) -> C:  # type: ignore[assignment]
    """The configuration with these keys, as a checkpoint holds them; `where` is for messages.

    Raises:
        ConfigError: An unknown key, a value of the wrong type, or values that don't go together.
    """
    config = replace(kind(), **_typed_or_none(values, where, kind))
    check(config)
    return config


def _typed_or_none(values: dict[str, Any], where: str, kind: type[RunConfig]) -> dict[str, Any]:
    """`values`, each of its key's type, or None where the key may have it. Raises ConfigError as `typed`."""
    types = keys(kind)
    nothing = {key: x for key, x in values.items() if x is None and NoneType in get_args(types.get(key))}
    return {**nothing, **typed({key: x for key, x in values.items() if key not in nothing}, where, kind)}


def typed(values: dict[str, Any], where: str, kind: type[RunConfig] = TrainConfig) -> dict[str, Any]:
    """`values`, each of its key's type. Raises ConfigError: an unknown key, or a value of the wrong type."""
    types = keys(kind)
    tables = {key: x for key, x in values.items() if isinstance(x, dict) and _has_table(key, kind)}
    values = values | {key: by_coefficient.as_text(x) for key, x in tables.items()}
    for key, value in values.items():
        require_known(key, where, kind)
        if not _fits(value, types[key]):
            raise ConfigError(
                f"configuration, in {where}, key {key}: expected {_described(types[key])}, got {value!r}; "
                "correct the value"
            )
    return {
        key: float(x) if float in _options(types[key]) and not isinstance(x, str) else x for key, x in values.items()
    }


def _has_table(key: str, kind: type[RunConfig]) -> bool:
    declared = declarations(kind).get(key)
    return declared is not None and bool(declared.by_coefficient)


def parse_value(key: str, text: str) -> Any:
    """The value that `text` stands for, of the key's type. Raises ConfigError."""
    require_known(key, "the command line")
    types = keys(TrainConfig)
    words = {"true": True, "false": False}
    for read in (int, float, lambda word: words[word.lower()], str):
        with contextlib.suppress(ValueError, KeyError):
            value = read(text)
            if _fits(value, types[key]):
                return typed({key: value}, "the command line")[key]
    what = f"expected {_described(types[key])}, got {text!r}; correct the value"
    raise ConfigError(f"configuration, in the command line, key {key}: {what}")


def parse_arguments(arguments: Sequence[str], default: C) -> C:
    """`default`, with the keys on the command line replaced. `--help` prints all keys and exits.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type.
    """
    kind = type(default)
    command = f"mada-lab {COMMANDS[kind]}"
    for argument in arguments:
        if argument.startswith("--") and argument not in ("--help", "--"):
            require_known(argument[2:].split("=")[0].replace("-", "_"), "the command line", kind)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(
                tyro.conf.FlagConversionOff[kind],  # type: ignore[valid-type] # known at run time only
                args=arguments,
                default=default,
                prog=f"{command} [CONFIG.toml|CONFIG.py]",
            )
    except SystemExit as stop:
        if stop.code == 0:  # --help
            raise
        raise ConfigError(f"command line: {_first_sentence(shown.getvalue())}; see `{command} --help`") from None


def require_known(key: str, where: str, kind: type[RunConfig] = TrainConfig) -> None:
    """Raises ConfigError with the nearest key, unless `key` is one."""
    if key not in keys(kind):
        remedy = did_you_mean(key, keys(kind), f"`mada-lab {COMMANDS[kind]} --help` lists the keys", cutoff=0.5)
        raise ConfigError(f"configuration, in {where}: expected a known key, got {key}; {remedy}")


def check(config: RunConfig) -> None:
    """Raises ConfigError with everything that is wrong at once, before anything is allocated."""
    problems = list(_problems(config))
    if problems:
        raise ConfigError("; ".join(problems) + "; change these keys")


def _problems(config: RunConfig) -> Iterator[str]:
    values = {key: getattr(config, key) for key in keys(type(config))}
    numbers = {key: x for key, x in values.items() if isinstance(x, int | float)}
    for key, declared in declarations(type(config)).items():
        if declared.by_coefficient and isinstance(values[key], str):
            try:
                found = by_coefficient.READ[declared.by_coefficient](values[key])
            except ValueError as error:
                yield f"{key}: {error}"
            else:
                numbers |= {f"{key}.{name}": x for name, x in found.items() if isinstance(x, float)}
    yield from (
        f"{key}: expected a finite number, got {x}" for key, x in sorted(numbers.items()) if not math.isfinite(x)
    )
    whole = {key: x for key, x in numbers.items() if isinstance(x, int) and key not in SEEDS}
    yield from _outside(whole, list(whole), f"at most {MOST}", lambda x: x <= MOST)
    yield from _outside(numbers, SEEDS, f"at most {LARGEST}", lambda x: x <= LARGEST)
    yield from _outside(numbers, AT_LEAST_1, "at least 1", lambda x: x >= 1)
    yield from _outside(numbers, AT_LEAST_0, "at least 0", lambda x: x >= 0)
    yield from _outside(numbers, BELOW_1, "a number in [0, 1)", lambda x: 0 <= x < 1)
    yield from _outside(numbers, UP_TO_1, "a number in [0, 1]", lambda x: 0 <= x <= 1)
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
    if config.warmup_iters > config.max_iters:
        yield f"warmup_iters: expected at most max_iters={config.max_iters}, got {config.warmup_iters}"
    if config.distributed_timeout <= 0:
        yield f"distributed_timeout: expected more than 0 seconds, got {config.distributed_timeout}"
    if config.background_save and config.checkpoint_shards == "each":
        yield "background_save: expected false with checkpoint_shards=each (processes talk as they write), got true"
    if not config.out_dir.strip():
        yield "out_dir: expected a folder, got an empty name"


def _outside(
    numbers: dict[str, float], keys: Sequence[str], allowed: str, is_allowed: typing.Callable[[float], bool]
) -> Iterator[str]:
    """What is wrong with the numbers of these keys; `key.beta1` is the number that a key has for a coefficient."""
    for key in keys:
        for label, x in numbers.items():
            if label.partition(".")[0] == key and math.isfinite(x) and not is_allowed(x):
                yield f"{label}: expected {allowed}, got {x}"


def _options(annotation: Any) -> tuple[Any, ...]:
    """The types in `int | None`, the values in `Literal["a", "b"]`, both of a union of them, or the one type."""
    parts = tuple(x for x in get_args(annotation) if x is not NoneType) or (annotation,)
    return tuple(x for part in parts for x in (get_args(part) if get_origin(part) is Literal else (part,)))


def _fits(value: Any, annotation: Any) -> bool:
    return any(_fits_one(value, x) for x in _options(annotation))


def _fits_one(value: Any, expected: Any) -> bool:
    """`expected` is a type, or the one value that is allowed."""
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is expected if isinstance(expected, type) else value == expected


def _described(annotation: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return " or ".join(names.get(x, repr(x)) for x in _options(annotation))


def _first_sentence(boxed: str) -> str:
    """What tyro prints in a box, up to its first rule, on one line."""
    lines = [line.strip("│ ").strip() for line in boxed.splitlines() if line.startswith("│")]
    cut = next((i for i, line in enumerate(lines) if re.fullmatch("─+", line)), len(lines))
    return " ".join(lines[:cut]).rstrip(".")
