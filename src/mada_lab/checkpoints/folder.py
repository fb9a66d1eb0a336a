"""Folders of checkpoints: how they are named, kept and removed, and the manifest that proves one whole. Without torch.

`checkpoints/step_NNNNNNNN/` holds files and, written last, `manifest.json`: the step, and the size and SHA-256 of every
file. A name with `.part` behind it is unfinished or on its way out; one with `.damaged` was set aside.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mada_lab.errors import CheckpointError
from mada_lab.system import files
from mada_lab.system.files import Piece

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 20  # at most: the manifest of a whole checkpoint has some hundred bytes per file
CHUNK_BYTES = 1 << 20
STEP = re.compile(r"step_(\d{8})")
LEFTOVER = re.compile(rf"{STEP.pattern}\{files.PART}")
DAMAGED = re.compile(rf"{STEP.pattern}\.damaged")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What a manifest says of a file.

    Attributes:
        bytes: Its length.
        sha256: Hexadecimal digest of its content.
    """

    bytes: int
    sha256: str


class Measured:
    """Passes on pieces on their way to a file, and knows the facts of that file afterwards."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces, self._digest, self._bytes = pieces, hashlib.sha256(), 0

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._pieces:
            self._digest.update(piece)
            self._bytes += len(piece)
            yield piece

    @property
    def facts(self) -> Facts:
        """The facts of what was passed on so far."""
        return Facts(self._bytes, self._digest.hexdigest())


def path_of(run_folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies, or would."""
    return run_folder / "checkpoints" / f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name says; -1 for another name."""
    match = STEP.fullmatch(folder.name)
    return int(match[1]) if match else -1


def available(run_folder: Path) -> list[Path]:
    """The checkpoints of a run by their names, in the order of their steps; links and other names are passed over."""
    return [x for x in _entries(run_folder) if STEP.fullmatch(x.name) and x.is_dir() and not x.is_symlink()]


def leftovers(run_folder: Path) -> list[Path]:
    """What a process that was killed left: half written, or half removed."""
    return [x for x in _entries(run_folder) if LEFTOVER.fullmatch(x.name)]


def strays(run_folder: Path) -> list[Path]:
    """What lies among the checkpoints and isn't one, nor was."""
    known = {*available(run_folder), *leftovers(run_folder)}
    return [x for x in _entries(run_folder) if x not in known and not DAMAGED.fullmatch(x.name)]


def _entries(run_folder: Path) -> list[Path]:
    folder = run_folder / "checkpoints"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def tidy(run_folder: Path, keep: int) -> None:
    """Removes all but the `keep` newest checkpoints, and what killed processes left; called when one is complete."""
    for folder in available(run_folder)[:-keep]:
        files.remove_folder(folder)
    for folder in leftovers(run_folder):
        files.remove(folder)


def set_aside_newer(run_folder: Path, step: int) -> None:
    """Renames the checkpoints after `step`, which couldn't be used: the run will write its own under their names.

    Raises:
        CheckpointError: One can't be renamed.
    """
    for folder in available(run_folder):
        if step_of(folder) > step:
            aside = folder.with_name(folder.name + ".damaged")
            try:
                files.remove(aside)
                files.rename(folder, aside)
            except OSError as error:
                what = f"expected to rename it to {aside.name}, got {error.strerror}; move it away"
                raise CheckpointError(f"checkpoint, in {folder}: {what}") from error


def seal(folder: Path, step: int, facts: dict[str, Facts]) -> None:
    """Writes the manifest of a folder that is complete but for it."""
    files.write_new(folder / MANIFEST, [_manifest(step, facts)])


def _manifest(step: int, facts: dict[str, Facts]) -> bytes:
    """The one text that a manifest of this content has; its own digest is part of it."""
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, "step": step}
    content["files"] = {name: asdict(x) for name, x in sorted(facts.items())}
    own = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return (json.dumps({**content, "sha256": own}, indent=1) + "\n").encode()


def verify(folder: Path) -> dict[str, Facts]:
    """Reads every byte of a checkpoint, and returns the facts of its files.

    Raises:
        CheckpointError: A byte, a name or a length isn't what the manifest says; the message names the file.
    """
    try:
        facts = _facts(folder)
        for name, expected in facts.items():
            _verify_file(folder / name, expected)
    except OSError as error:
        where = error.filename or folder
        raise CheckpointError(damage(where, "a readable file", error.strerror or str(error))) from error
    return facts


def _facts(folder: Path) -> dict[str, Facts]:
    """The files that the manifest lists, once these are the very files there, and the manifest is as it was written."""
    present = _plain_files(folder)
    path = folder / MANIFEST
    if present.pop(MANIFEST, MANIFEST_BYTES + 1) > MANIFEST_BYTES:
        raise CheckpointError(damage(path, f"a file of at most {MANIFEST_BYTES} bytes", "none, or a longer one"))
    content = path.read_bytes()
    try:
        parsed = json.loads(content)
        if parsed["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {parsed['format_version']!r}, not {FORMAT_VERSION}")
        facts = {str(name): Facts(x["bytes"], x["sha256"]) for name, x in parsed["files"].items()}
        if content != _manifest(parsed["step"], facts):
            raise ValueError("another text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        got = " ".join(str(error).split())[:80]
        raise CheckpointError(damage(path, "the manifest that this version writes", got)) from error
    if parsed["step"] != step_of(folder):
        raise CheckpointError(damage(path, f"the manifest of {folder.name}", f"that of step {parsed['step']}"))
    for name in sorted({*facts, *present}):
        expected, got = facts[name].bytes if name in facts else None, present.get(name)
        if expected != got:
            raise CheckpointError(damage(folder / name, _bytes(expected), _bytes(got)))
    return facts


def _plain_files(folder: Path) -> dict[str, int]:
    """The lengths of the files in a folder by name; a link, a pipe or a folder among them is refused."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise CheckpointError(damage(entry.path, "a plain file", "something else"))
            found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return found


def _verify_file(path: Path, expected: Facts) -> None:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected.sha256:
        raise CheckpointError(damage(path, f"sha256 {expected.sha256}", digest.hexdigest()))


def _bytes(length: int | None) -> str:
    return "no such file" if length is None else f"{length} bytes"


def damage(path: Path | str, expected: str, got: str) -> str:
    """The message about a checkpoint that can't be used."""
    return f"checkpoint, in {path}: expected {expected}, got {got}; restore it from a copy, or remove it"
