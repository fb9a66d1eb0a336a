"""Configurations and data files with mistakes of every kind in them: an error in one line, and never more."""

import contextlib
import io
import json
import time
from dataclasses import fields

from mada_lab.config import parsing
from mada_lab.config.keys import TrainConfig
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import prepare
from mada_lab.errors import LabError
from tests.reliability.tally import Tally

LIMIT = 10.0  # seconds
KEYS = [field.name for field in fields(TrainConfig)]
ODD_KEYS = ["lerning_rate", "", "__class__", "n-layer", "beta4", "--", "a.b", "out_dir ", "ключ", "x" * 5000]
ODD_VALUES = (
    "1 0 -1 1e400 -1e400 nan inf -inf 1e-320 0x10 1_000 99999999999999999999999 true false True None null yes "
    "'' \"\" [] {} [1,2] {a=1} 1979-05-27 !!python/object:os.system ${HOME} __import__('os') ../../x /dev/full "
    "float32 bfloat16 scratch resume auto cuda:99 mada adamw \x1b[31m \\u0000 <script> $\\frac{$ 1e-3 .5 5. +3 --"
).split(" ")


def configurations(folder, count, rng):
    """Files and command lines out of good and odd keys and values, and good files with bytes changed."""
    tally = Tally("a configuration, or an error in one line; no traceback, no hang")
    folder.mkdir()
    slowest = 0.0
    for i in range(count):
        path = folder / "c.toml"
        path.write_bytes(_toml(rng))
        words = [str(path)] if rng.random() < 0.6 else []
        words += _words(rng) if rng.random() < 0.6 or not words else []
        problem, seconds = _tried(lambda words=words: parsing.load(words))
        slowest = max(slowest, seconds)
        tally.case(f"{i}: {words} {path.read_bytes()[:200]!r}", problem)
    tally.figures = {"slowest": f"{slowest:.1f} s"}
    return tally


def _toml(rng):
    lines = [f"{_key(rng)} = {rng.choice(ODD_VALUES)}" for _ in range(rng.randrange(4))]
    text = bytearray("\n".join(lines).encode("utf-8", "surrogateescape"))
    if text and rng.random() < 0.3:
        for _ in range(rng.randrange(1, 5)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


def _key(rng):
    return rng.choice(KEYS if rng.random() < 0.8 else ODD_KEYS)


def _words(rng):
    words = []
    for _ in range(rng.randrange(4)):
        key, value = _key(rng), rng.choice(ODD_VALUES)
        words += rng.choice([[f"--{key}={value}"], [f"--{key}", value], [value], [f"--{key}"], [f"-{key[:1]}", value]])
    return [word.replace("\x00", "") for word in words]


def data_files(folder, count, rng):
    """A prepared data set with a byte, a field, a length or a whole file changed; put back afterwards."""
    tally = Tally("opened, or an error in one line; no traceback, no hang, no crash")
    data = prepare("pydoc", folder)
    good = {path: path.read_bytes() for path in sorted(data.iterdir())}
    opened = 0
    for i in range(count):
        path = rng.choice(list(good))
        bad = rng.choice([_bytes_changed, _cut, _longer, _field_changed, _another])(good[path], rng)
        path.write_bytes(bad)
        problem, _ = _tried(lambda: (Corpus.open(data), prepare("pydoc", folder)))
        opened += not problem and _opens(data)
        tally.case(f"{i}: {path.name}, {len(bad)} bytes {bad[:80]!r}", problem)
        path.write_bytes(good[path])
    tally.figures = {"opened": str(opened)}
    return tally


def _opens(data):
    try:
        Corpus.open(data)
    except LabError:
        return False
    return True


def _bytes_changed(content, rng):
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(content, rng):
    return content[: rng.choice([0, 1, 7, len(content) // 2, len(content) - 1, rng.randrange(len(content))])]


def _longer(content, rng):
    return content + rng.choice([b"\x00", b"\n", b"garbage", content[:100]])


def _field_changed(content, rng):
    """In JSON, a value anywhere becomes another."""
    try:
        tree = json.loads(content)
    except ValueError:
        return _bytes_changed(content, rng)
    at, key = tree, rng.choice(list(tree))
    while isinstance(at[key], dict) and at[key] and rng.random() < 0.8:
        at, key = at[key], rng.choice(list(at[key]))
    odd = [None, True, -1, 0, 1 << 80, 1.5, "", "x", [], {}, [[]], "\ud800", "../../x", float("inf"), 1e308]
    at[key] = rng.choice(odd)
    if rng.random() < 0.2:
        del at[key]
    return json.dumps(tree).encode()


def _another(content, rng):
    return rng.choice([b"", b"null", b"[]", b"{}", b"\x80\x04.", b"[" * 100_000, b"\xff\xfe", b'{"format_version": 1}'])


def _tried(work):
    """What is wrong with how `work` went, and the seconds it took."""
    began, problem = time.monotonic(), ""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # --help is one of the words
            work()
    except LabError as error:
        problem = "" if str(error).isprintable() else f"not one printable line: {error!r}"
    except SystemExit as stop:
        problem = "" if stop.code == 0 else f"ends the process: {stop.code}"
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    return problem or ("" if seconds < LIMIT else f"{seconds:.0f} s"), seconds
