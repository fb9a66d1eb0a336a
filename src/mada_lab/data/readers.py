"""Reads documents from text, JSON lines and Parquet. A document comes in parts, as it may be larger than memory."""

import codecs
import itertools
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mada_lab.data.download import describe, readable
from mada_lab.data.sidecar import SPLITS
from mada_lab.errors import DataError, require_exists
from mada_lab.system import optional

Document = Iterable[str]

TEXT_SUFFIXES = (".txt", ".raw", ".tokens")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl", ".parquet")
BLOCK_BYTES = 1 << 20
ROWS = 256
WORDS = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}


def documents(path: Path) -> Iterator[Document]:
    """The documents in a file: each row of .jsonl and .parquet, in the field `text`; any other file is one document.

    Raises DataError if the file can't be read, or has other content.
    """
    rows = {".jsonl": _json_lines, ".parquet": _parquet_rows}.get(path.suffix)
    with readable(path, "text"):
        yield from [text_parts(path)] if rows is None else ([text] for text in rows(path))


def text_parts(path: Path) -> Iterator[str]:
    """Yields a text file in parts, none empty. Raises DataError if it can't be read, or isn't UTF-8.

    Carriage returns and byte order marks are kept.
    """
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with readable(path, "text"), open(path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                offset += len(block)
                if text := decoder.decode(block):
                    yield text
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise not_utf8(error, str(path), offset - len(error.object)) from error


def not_utf8(error: UnicodeDecodeError, where: str, offset: int = 0) -> DataError:
    """The error for bytes at `offset` that aren't UTF-8."""
    return DataError(
        f"text, in {where}: expected UTF-8, got the byte {error.object[error.start]:#04x} "
        f"at offset {offset + error.start}; convert the file to UTF-8"
    )


def by_split(given: Path, expected: Iterable[str]) -> dict[str, list[Path]]:
    """Sorts files of the user into splits, by the words train, valid and test in their names.

    Args:
        given: A file, a folder, or several paths, joined as in the variable PATH.
        expected: Names of the allowed splits; with a single one, the files' names don't matter.

    Returns:
        Files by split, in the order of their names.

    Raises:
        DataError: A file is missing, or its split is unknown.
    """
    expected = tuple(expected)
    found: dict[str, list[Path]] = {}
    for path in itertools.chain.from_iterable(map(_files, paths_in(given))):
        words = [WORDS[word] for word in re.findall(r"[a-z]+", path.name.lower()) if word in WORDS]
        split = expected[0] if len(expected) == 1 else next(iter(words), None)
        if split not in expected:
            raise DataError(
                f"--from-file, in {path}: expected {' or '.join(expected)} in the name, got {path.name}; rename it"
            )
        found.setdefault(split, []).append(path)
    return {split: found[split] for split in SPLITS if split in found}


def paths_in(given: Path) -> list[Path]:
    """`given`, or the paths in it, joined as in the variable PATH."""
    return [given] if given.exists() else [Path(name) for name in str(given).split(os.pathsep)]


def _files(path: Path) -> list[Path]:
    """`path`, or the files in a folder."""
    require_exists(path, "--from-file", DataError)
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or files[0].suffix not in SUFFIXES:
        raise DataError(f"--from-file, in {path}: expected files {', '.join(SUFFIXES)}, got none; choose another path")
    return files


def _json_lines(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError) as error:
                raise DataError(f"text, in {where}: expected JSON, got {describe(error)}; mend the line") from error
            if line.strip():
                yield _text(row, where)


def _text(row: Any, where: str) -> str:
    text = row.get("text") if isinstance(row, Mapping) else None
    if not isinstance(text, str):
        raise DataError(f"text, in {where}: expected a string under text, got {type(text).__name__}; mend the file")
    return text


def _parquet_rows(path: Path) -> Iterator[str]:
    """Yields the rows of a Parquet file, which `datasets` reads in groups, without a copy on the disk."""
    datasets = optional.load("datasets", "mada-optim[hf]")
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it would log beside our error
    with tempfile.TemporaryDirectory() as cache:
        try:
            rows = datasets.load_dataset(
                "parquet", data_files=[str(path)], split="train", streaming=True, columns=["text"], cache_dir=cache
            )
            for batch in rows.iter(batch_size=ROWS):
                yield from (_text({"text": text}, str(path)) for text in batch["text"])
        except DataError:
            raise
        except Exception as error:  # those of pyarrow and of the file system below have no common class
            raise DataError(
                f"text, in {path}: expected Parquet with a column text, got {describe(error)}; mend the file"
            ) from error
