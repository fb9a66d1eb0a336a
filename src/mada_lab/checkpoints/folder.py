"""Folders of checkpoints: names, removal, and the manifest that proves a checkpoint whole. Without torch.

`checkpoints/step_NNNNNNNN/` holds files and, written last, `manifest.json`: the step, and the size and SHA-256 of every
file. A name that ends in `.part` is half written or half removed; one that ends in `.damaged` was set aside.
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

from mada_lab.errors import CheckpointError, translated
from mada_lab.system import files
from mada_lab.system.files import Piece

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 20  # at most: it has some hundred bytes per file
STEP = re.compile(r"step_(\d{8})")
LEFTOVER = re.compile(rf"{STEP.pattern}\{files.PART}")
DAMAGED = re.compile(rf"{STEP.pattern}\.damaged")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """Length and SHA-256 (hexadecimal) of a file."""

    bytes: int
    sha256: str


class Measured:
    """Passes on the pieces of a file, and has the facts of the file afterwards."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces, self._digest, self._bytes = pieces, hashlib.sha256(), 0

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._pieces:
            self._digest.update(piece)
            self._bytes += len(piece)
            yield piece

    @property
    def facts(self) -> Facts:
        return Facts(self._bytes, self._digest.hexdigest())


def path_of(run_folder: Path, step: int) -> Path:
    """The folder of the checkpoint of `step`."""
    return run_folder / "checkpoints" / f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name; -1 for another name."""
    match = STEP.fullmatch(folder.name)
    return int(match[1]) if match else -1


def available(run_folder: Path) -> list[Path]:
    """The folders of a run with names of checkpoints, in the order of their steps; links are ignored."""
    return [x for x in _entries(run_folder) if STEP.fullmatch(x.name) and x.is_dir() and not x.is_symlink()]


def leftovers(run_folder: Path) -> list[Path]:
    """Checkpoints that a killed process left half written or half removed."""
    return [x for x in _entries(run_folder) if LEFTOVER.fullmatch(x.name)]


def strays(run_folder: Path) -> list[Path]:
    """Files and folders among the checkpoints that are none, and no remains of one."""
    known = {*available(run_folder), *leftovers(run_folder)}
    return [x for x in _entries(run_folder) if x not in known and not DAMAGED.fullmatch(x.name)]


def _entries(run_folder: Path) -> list[Path]:
    folder = run_folder / "checkpoints"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def tidy(run_folder: Path, keep: int) -> None:
    """Removes all but the `keep` newest checkpoints, and the leftovers; called when a checkpoint is complete."""
    for folder in available(run_folder)[:-keep]:
        files.remove_folder(folder)
    for folder in leftovers(run_folder):
        files.remove(folder)


def set_aside_newer(run_folder: Path, step: int) -> None:
    """Renames the damaged checkpoints after `step`, whose names the run needs. Raises CheckpointError if it can't."""
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
    """Writes the manifest, which completes a folder."""
    files.write_new(folder / MANIFEST, [_manifest(step, facts)])


def _manifest(step: int, facts: dict[str, Facts]) -> bytes:
    """The only text of a manifest with this content; it contains its own digest."""
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, "step": step}
    content["files"] = {name: asdict(x) for name, x in sorted(facts.items())}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1) + "\n").encode()


def verify(folder: Path) -> dict[str, Facts]:
    """Reads every byte of a checkpoint, and returns the facts of its files.

    Raises CheckpointError, which names the file, if a byte, a name or a length differs from the manifest.
    """
    with translated(OSError, lambda x: damaged(x.filename or folder, "a readable file", x.strerror or str(x))):
        facts = _facts(folder)
        for name, expected in facts.items():
            with open(folder / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != expected.sha256:
                raise damaged(folder / name, f"sha256 {expected.sha256}", digest)
    return facts


def _facts(folder: Path) -> dict[str, Facts]:
    """The files that the manifest lists, if it is intact, and if the folder has these files and no others."""
    present = _plain_files(folder)
    path = folder / MANIFEST
    if present.pop(MANIFEST, MANIFEST_BYTES + 1) > MANIFEST_BYTES:
        raise damaged(path, f"a file of at most {MANIFEST_BYTES} bytes", "none, or a longer one")
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
        raise damaged(path, "the manifest that this version writes", got) from error
    if parsed["step"] != step_of(folder):
        raise damaged(path, f"the manifest of {folder.name}", f"that of step {parsed['step']}")
    for name in sorted({*facts, *present}):
        listed, length = facts[name].bytes if name in facts else None, present.get(name)
        if listed != length:
            raise damaged(folder / name, *("no such file" if x is None else f"{x} bytes" for x in (listed, length)))
    return facts


def _plain_files(folder: Path) -> dict[str, int]:
    """The lengths of the files in a folder by name; refuses links, pipes and folders among them."""
    lengths = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise damaged(entry.path, "a plain file", "something else")
            lengths[entry.name] = entry.stat(follow_symlinks=False).st_size
    return lengths


def damaged(path: Path | str, expected: str, got: str) -> CheckpointError:
    """The error about a damaged checkpoint."""
    what = f"expected {expected}, got {got}; restore it from a copy, or remove it"
    return CheckpointError(f"checkpoint, in {path}: {what}")
