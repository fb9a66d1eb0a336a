"""The sidecar `meta.json` of a text data set, which describes its token files."""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mada_lab.data import gpt2
from mada_lab.data.tokenizer import id_dtype
from mada_lab.errors import DataError

S = TypeVar("S")
Json = Any  # a value out of `json.loads`

FILE_NAME = "meta.json"
FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
REMEDY = "delete the folder and run `mada-lab data prepare NAME` again"
FIXED = {"format_version": FORMAT_VERSION, "byteorder": "little"}


@dataclass(frozen=True)
class Vocabulary:
    """The meaning of the token ids."""

    tokenizer: str  #: `char` or `gpt2`
    size: int  #: number of ids
    characters: str | None = None  #: with `char`, the characters by id, in the order of their code points
    sha256: str | None = None  #: with `gpt2`, the hexadecimal digest of its file, a copy of which is beside the sidecar


@dataclass(frozen=True)
class Split:
    """A token file."""

    tokens: int  #: number of tokens, at least 1
    bytes: int  #: its length
    sha256: str  #: hexadecimal digest of its content


@dataclass(frozen=True)
class Sidecar:
    """The description of a folder of token files."""

    name: str
    source: str  #: source of the text
    source_sha256: str  #: hexadecimal digest of the whole text as UTF-8
    vocabulary: Vocabulary  #: the meaning of the ids
    splits: Mapping[str, Split]  #: token files, by the names in `SPLITS`

    @property
    def token_dtype(self) -> np.dtype[Any]:
        """The type of a token in the files, which are little-endian."""
        return id_dtype(self.vocabulary.size)

    def to_json(self) -> str:
        """The text of `meta.json`: ASCII, and the same for the same content."""
        fields: dict[str, Json] = {
            **FIXED,
            "tokenizer": self.vocabulary.tokenizer,
            "name": self.name,
            "source": self.source,
            "source_sha256": self.source_sha256,
            "dtype": self.token_dtype.name,
        }
        if self.vocabulary.characters is not None:
            fields["vocabulary"] = list(self.vocabulary.characters)
        else:
            fields |= {"vocabulary_size": self.vocabulary.size, "tokenizer_sha256": self.vocabulary.sha256}
        fields["splits"] = {name: asdict(self.splits[name]) for name in SPLITS if name in self.splits}
        return json.dumps(fields, indent=1) + "\n"


def read(folder: Path) -> Sidecar:
    """The checked sidecar in `folder`. Raises DataError if it is missing, isn't JSON, or has a wrong field."""
    fields, path = read_json(folder), folder / FILE_NAME
    if isinstance(fields, dict) and fields.get("kind") == "images":
        raise DataError(f"sidecar, in {path}: expected a data set of text, got one of images; choose another data set")
    require_fixed(fields, path)
    digest = fields.get("source_sha256")
    require(isinstance(digest, str), path, "source_sha256", "a string", digest)
    vocabulary = _parse_vocabulary(fields, path)
    dtype, got = id_dtype(vocabulary.size), fields.get("dtype")
    require(got == dtype.name, path, "dtype", f"{dtype.name} for {vocabulary.size} token ids", got)
    splits = _parse_splits(fields.get("splits"), dtype.itemsize, path)
    return Sidecar(fields["name"], fields["source"], digest, vocabulary, splits)


def read_json(folder: Path) -> Json:
    """The unchecked content of `meta.json` in `folder`. Raises DataError if it is missing, or isn't JSON."""
    path = folder / FILE_NAME
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"sidecar, in {path}: expected a readable file, got {_unreadable(folder, error)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"sidecar, in {path}: expected JSON, got {type(error).__name__}; {REMEDY}") from error


def require_fixed(fields: Json, path: Path, fixed: Mapping[str, Json] = FIXED) -> None:
    """Raises DataError unless `fields` is an object with the `fixed` fields, and a name and a source."""
    require(isinstance(fields, dict), path, "(all)", "an object", fields)
    for key, value in fixed.items():
        got = fields.get(key)
        require(type(got) is type(value) and got == value, path, key, repr(value), got)
    for key in ("name", "source"):
        require(isinstance(fields.get(key), str), path, key, "a string", fields.get(key))


def require(condition: bool, path: Path, key: str, expected: str, got: object) -> None:
    """Raises DataError unless `condition`; the message shortens the value to stay on one line."""
    if not condition:
        raise DataError(f"sidecar, in {path}, key {key}: expected {expected}, got {reprlib.repr(got)}; {REMEDY}")


def parse_split(kind: type[S], value: Json, path: Path, key: str) -> S:
    """The description of a split, whose fields are digests and positive integers. Raises DataError for another."""
    require(isinstance(value, dict), path, key, "an object", value)
    for x in fields(kind):  # type: ignore[arg-type] # a dataclass
        got, expected = value.get(x.name), "a positive integer" if x.type is int else "a string"
        good = type(got) is int and got > 0 if x.type is int else isinstance(got, str)
        require(good, path, f"{key}.{x.name}", expected, got)
    return kind(**{x.name: value[x.name] for x in fields(kind)})  # type: ignore[arg-type]


def _unreadable(folder: Path, error: OSError) -> str:
    """The end of the message about a missing sidecar, with the reason if it is known."""
    if not folder.is_dir():
        return "no such folder; run `mada-lab data prepare NAME` first"
    if (folder / "meta.pkl").exists():
        return f"meta.pkl alone, a pickle, which is never opened as it can run any code; {REMEDY}"
    return f"{error.strerror}; {REMEDY}"


def _parse_vocabulary(fields: Json, path: Path) -> Vocabulary:
    tokenizer = fields.get("tokenizer")
    require(tokenizer in ("char", "gpt2"), path, "tokenizer", "char or gpt2", tokenizer)
    if tokenizer == "char":
        characters = _parse_characters(fields.get("vocabulary"), path)
        return Vocabulary(tokenizer, len(characters), characters=characters)
    size, sizes = fields.get("vocabulary_size"), (gpt2.VOCABULARY_SIZE, gpt2.SMALL_VOCABULARY)
    require(type(size) is int and size in sizes, path, "vocabulary_size", " or ".join(map(str, sizes)), size)
    digest = fields.get("tokenizer_sha256")
    require(digest == gpt2.ENCODER.sha256, path, "tokenizer_sha256", repr(gpt2.ENCODER.sha256), digest)
    return Vocabulary(tokenizer, size, sha256=gpt2.ENCODER.sha256)


def _parse_characters(value: Json, path: Path) -> str:
    good = isinstance(value, list) and len(value) > 0 and all(isinstance(x, str) and len(x) == 1 for x in value)
    good = good and value == sorted(set(value))
    require(good, path, "vocabulary", "single characters, ascending, each once", value)
    return "".join(value)


def _parse_splits(value: Json, token_bytes: int, path: Path) -> dict[str, Split]:
    good = isinstance(value, dict) and len(value) > 0 and set(value) <= set(SPLITS)
    require(good, path, "splits", f"one or several of {', '.join(SPLITS)}", value)
    found = {name: parse_split(Split, value[name], path, f"splits.{name}") for name in SPLITS if name in value}
    for name, split in found.items():
        expected = split.tokens * token_bytes
        require(split.bytes == expected, path, f"splits.{name}.bytes", str(expected), split.bytes)
    return found
