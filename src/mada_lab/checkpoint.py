"""Checkpoints without pickle: tensors in safetensors, everything else in JSON, and a manifest that proves them whole.

A checkpoint appears whole or not at all, its folder is never written twice, and none of it is believed, or put into a
model, before every byte has been found as it was written.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from mada_lab import checkpoint_folder, files, strict_json
from mada_lab.checkpoint_folder import Facts, Measured
from mada_lab.errors import CheckpointError
from mada_lab.packing import Tensors, pack, safetensors_file, unpack

TENSORS = "tensors.safetensors"
VALUES = "values.json"
VALUES_BYTES = 1 << 23  # at most: a hundred bytes per tensor, so that JSON made to fill the memory is refused unread
SPARE_BYTES = 1 << 20  # for JSON and the file system's own needs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped.

    Attributes:
        step: Number of optimizer steps done.
        tree: Nested dicts, lists and tuples of tensors and plain values, by name of what they belong to.
    """

    step: int
    tree: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint ready to be written: its tensors are on the CPU."""

    step: int
    skeleton: Any
    tensors: Tensors

    @property
    def bytes(self) -> int:
        """About what it takes on the disk."""
        return sum(x.numel() * x.element_size() for x in self.tensors.values()) + SPARE_BYTES


def snapshot(checkpoint: Checkpoint, *, copy: bool = False) -> Snapshot:
    """`checkpoint` ready to be written; with `copy`, training may go on meanwhile."""
    tensors: Tensors = {}
    return Snapshot(checkpoint.step, pack(checkpoint.tree, tensors, copy=copy), tensors)


def save(run_folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint, then removes all but the `keep` newest; returns its folder."""
    return write(run_folder, snapshot(checkpoint), keep)


def write(run_folder: Path, taken: Snapshot, keep: int) -> Path:
    """Writes a snapshot, unless its checkpoint is there; then removes all but the `keep` newest.

    Raises:
        CheckpointError: It can't be written; what was there before is untouched.
    """
    folder = checkpoint_folder.path_of(run_folder, taken.step)
    if folder.exists():
        return folder
    try:
        files.make_folder(folder.parent)
        _require_space(folder.parent, taken.bytes)
        with files.new_folder(folder) as part:
            checkpoint_folder.seal(part, taken.step, dict(_write_files(part, taken)))
    except OSError as error:
        raise CheckpointError(
            f"checkpoint, in {folder}: expected to write {taken.bytes:,} bytes, got {error.strerror} "
            f"({_free(run_folder):,} bytes are free); free some space, or check the disk"
        ) from error
    try:
        checkpoint_folder.tidy(run_folder, keep)
    except OSError as error:
        logger.warning("old checkpoints, in %s: expected to remove them, got %s", folder.parent, error.strerror)
    return folder


def _write_files(part: Path, taken: Snapshot) -> Iterator[tuple[str, Facts]]:
    values = json.dumps({"step": taken.step, "tree": taken.skeleton}, allow_nan=False).encode()
    contents = {TENSORS: safetensors_file(taken.tensors), VALUES: iter([values])}
    for name, pieces in contents.items():
        measured = Measured(pieces)
        files.write_new(part / name, measured)
        yield name, measured.facts


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(0, "too little space on the disk")


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def load_newest(run_folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole, with a warning about each newer one; None if there is none at all.

    Raises:
        CheckpointError: There are some, and all are damaged.
    """
    folders = checkpoint_folder.available(run_folder)
    for stray in checkpoint_folder.strays(run_folder):
        logger.warning("%s is no checkpoint by its name, and is passed over", stray)
    first: CheckpointError | None = None
    for folder in reversed(folders):
        try:
            return load(folder)
        except CheckpointError as error:
            logger.warning("%s", error)
            first = first or error
    if first is not None:
        raise CheckpointError(f"{first}; none of the {len(folders)} in {run_folder} is whole") from first
    return None


def load(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its tensors on the CPU. Nothing in it is executed.

    Raises:
        CheckpointError: It is damaged or of another format.
    """
    facts = checkpoint_folder.verify(folder)
    if set(facts) != {TENSORS, VALUES}:
        got = ", ".join(sorted(facts))[:200]
        raise CheckpointError(checkpoint_folder.damage(folder, f"{TENSORS} and {VALUES}", got))
    if facts[VALUES].bytes > VALUES_BYTES:
        expected, got = f"at most {VALUES_BYTES} bytes", f"{facts[VALUES].bytes} bytes"
        raise CheckpointError(checkpoint_folder.damage(folder / VALUES, expected, got))
    try:
        values: Any = strict_json.loads((folder / VALUES).read_bytes())
        tensors = _load_tensors(folder / TENSORS)
        tree = unpack(values["tree"], tensors)
        if values["step"] != checkpoint_folder.step_of(folder) or not isinstance(tree, dict):
            raise ValueError(f"step {values['step']!r}, of {type(tree).__name__}")
        return Checkpoint(values["step"], tree)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise CheckpointError(checkpoint_folder.damage(folder, "one that this version wrote", got)) from error


def _load_tensors(path: Path) -> Tensors:
    """Copies, as what is read is mapped from the file, which may be removed or cut while the run goes on."""
    return {name: x.clone() for name, x in safetensors.torch.load_file(path).items()}
