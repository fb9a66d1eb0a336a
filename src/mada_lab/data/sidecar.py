"""The sidecar `meta.json`: what the token files beside it hold, in words that need no guess and run no code."""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import DataError

Json = Any  # a value out of `json.loads`

FILE_NAME = "meta.json"
FORMAT_VERSION = 1
SPLITS = ("train", "val")
REMEDY = "delete the folder and run `mada-lab data prepare NAME` again"
FIXED = {"format_version": FORMAT_VERSION, "byteorder": "little", "tokenizer": "char"}


@dataclass(frozen=True)
class Split:
    """A token file.

    Attributes:
        tokens: How many it holds, at least 1.
        bytes: Its length.
        sha256: Hexadecimal digest of its content.
    """

    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Sidecar:
    """What a folder of token files holds.

    Attributes:
        name: Name of the corpus.
        source: Where the text came from.
        source_sha256: Hexadecimal digest of the text, as UTF-8.
        dtype: Name of the integer type of a token; the files are little-endian.
        vocabulary: The characters by id, in the order of their code points.
        splits: By name, `train` and `val`.
    """

    name: str
    source: str
    source_sha256: str
    dtype: str
    vocabulary: str
    splits: Mapping[str, Split]

    @property
    def token_dtype(self) -> np.dtype[Any]:
        """The type of a token in the files."""
        return np.dtype(self.dtype).newbyteorder("<")

    def to_json(self) -> str:
        """The text of `meta.json`: ASCII, and the same for the same content."""
        fields = {**FIXED, **asdict(self), "vocabulary": list(self.vocabulary)}
        return json.dumps(fields, indent=1) + "\n"


def read(folder: Path) -> Sidecar:
    """The sidecar in `folder`, every field of it checked.

    Raises:
        DataError: It is missing, isn't JSON, or says something that no preparation writes.
    """
    path = folder / FILE_NAME
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"sidecar, in {path}: expected a readable file, got {_unreadable(folder, error)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"sidecar, in {path}: expected JSON, got {type(error).__name__}; {REMEDY}") from error
    return _parse(fields, path)


def _unreadable(folder: Path, error: OSError) -> str:
    """The rest of the message if there is no sidecar to read, with the reason where it is known."""
    if not folder.is_dir():
        return "no such folder; run `mada-lab data prepare NAME` first"
    if (folder / "meta.pkl").exists():
        return f"meta.pkl alone, a pickle, which is never opened as it can run any code; {REMEDY}"
    return f"{error.strerror}; {REMEDY}"


def _parse(fields: Json, path: Path) -> Sidecar:
    """Builds the sidecar from what JSON gave, believing none of it."""
    _require(isinstance(fields, dict), path, "(all)", "an object", fields)
    for key, value in FIXED.items():
        got = fields.get(key)
        _require(type(got) is type(value) and got == value, path, key, repr(value), got)
    for key in ("name", "source", "source_sha256"):
        _require(isinstance(fields.get(key), str), path, key, "a string", fields.get(key))
    vocabulary = _parse_vocabulary(fields.get("vocabulary"), path)
    dtype, got = CharTokenizer(vocabulary).dtype, fields.get("dtype")
    _require(got == dtype.name, path, "dtype", f"{dtype.name} for {len(vocabulary)} characters", got)
    splits = _parse_splits(fields.get("splits"), dtype.itemsize, path)
    return Sidecar(fields["name"], fields["source"], fields["source_sha256"], dtype.name, vocabulary, splits)


def _parse_vocabulary(value: Json, path: Path) -> str:
    good = isinstance(value, list) and len(value) > 0 and all(isinstance(x, str) and len(x) == 1 for x in value)
    good = good and value == sorted(set(value))
    _require(good, path, "vocabulary", "single characters, ascending, each once", value)
    return "".join(value)


def _parse_splits(value: Json, token_bytes: int, path: Path) -> dict[str, Split]:
    good = isinstance(value, dict) and set(value) == set(SPLITS)
    _require(good, path, "splits", " and ".join(SPLITS), value)
    return {name: _parse_split(value[name], token_bytes, path, f"splits.{name}") for name in SPLITS}


def _parse_split(value: Json, token_bytes: int, path: Path, key: str) -> Split:
    _require(isinstance(value, dict), path, key, "an object", value)
    tokens, length, sha256 = (value.get(x) for x in ("tokens", "bytes", "sha256"))
    _require(type(tokens) is int and tokens > 0, path, f"{key}.tokens", "a positive integer", tokens)
    expected = tokens * token_bytes
    _require(type(length) is int and length == expected, path, f"{key}.bytes", str(expected), length)
    _require(isinstance(sha256, str), path, f"{key}.sha256", "a string", sha256)
    return Split(tokens, length, sha256)


def _require(condition: bool, path: Path, key: str, expected: str, got: object) -> None:
    """Raises DataError unless `condition`; the value is shortened, so that the message stays one line."""
    if not condition:
        raise DataError(f"sidecar, in {path}, key {key}: expected {expected}, got {reprlib.repr(got)}; {REMEDY}")
