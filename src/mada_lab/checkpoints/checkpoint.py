"""Writes checkpoints, without pickle: tensors as safetensors, all else as JSON, and a manifest that proves them whole.

A checkpoint appears whole or not at all, its folder is never written twice, and every byte of it is verified before any
of it is put into a model. Where processes share tensors, each of them may write a file of its own.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.checkpoints.folder import Facts, Measured
from mada_lab.checkpoints.reading import TENSORS, VALUES, Index, Saved, open_saved, shard_name
from mada_lab.checkpoints.row_shards import Place, place
from mada_lab.checkpoints.tree import Tensors, pack, safetensors_file
from mada_lab.compute.world import ALONE, World
from mada_lab.errors import CheckpointError, translated
from mada_lab.system import files
from mada_lab.system.files import Piece
from mada_optim.sharding import dtensors

SPARE_BYTES = 1 << 20  # for JSON and the file system's own needs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped."""

    step: int  #: optimizer steps done
    tree: dict[str, Any]  #: nested dicts, lists and tuples of tensors and plain values


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint ready to be written: its tensors are on the CPU."""

    step: int  #: optimizer steps done
    skeleton: Any  #: the tree, with a name in place of each tensor
    tensors: Tensors  #: the tensors that each process has whole
    pieces: Tensors  #: this process's pieces of the sharded tensors
    index: Index | None  #: shapes, types and number of pieces of the sharded tensors; None if there are none
    #: The file of this process's pieces; None if there are none, or if another process writes the same
    shard: str | None

    @property
    def bytes(self) -> int:
        """The approximate size on the disk, over all processes."""
        whole = sum(x.numel() * x.element_size() for x in self.tensors.values())
        return whole + (self.index.bytes if self.index else 0) + SPARE_BYTES


def snapshot(checkpoint: Checkpoint, *, copy: bool = False) -> Snapshot:
    """`checkpoint` ready to be written; with `copy`, training may go on meanwhile. Raises as `row_shards.place`."""
    tensors: Tensors = {}
    skeleton = pack(checkpoint.tree, tensors)
    shared = {name: x for name, x in tensors.items() if dtensors.is_sharded(x)}
    here = {name: dtensors.local(x).to("cpu", copy=copy).contiguous() for name, x in tensors.items()}
    places: set[Place | None] = {place(x) for x in shared.values()} or {None}
    if len(places) > 1:
        raise ValueError(f"expected tensors that are shared by the same processes, got {len(places)} kinds")
    (piece,) = places
    return Snapshot(
        checkpoint.step,
        skeleton,
        {name: x for name, x in here.items() if name not in shared},
        {name: here[name] for name in shared},
        None if piece is None else Index.of(shared, piece.count),
        shard_name(piece.number) if piece is not None and piece.is_first else None,
    )


def save(run_folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint, then removes all but the `keep` newest; returns its folder."""
    return write(run_folder, snapshot(checkpoint), keep)


def write(run_folder: Path, taken: Snapshot, keep: int, world: World = ALONE) -> Path:
    """Writes a snapshot, unless its checkpoint exists; then removes all but the `keep` newest; returns its folder.

    Each of several processes writes its pieces; the first writes all else, and seals the checkpoint.
    Raises CheckpointError on all if one of them can't write; what was there before is untouched.
    """
    folder = checkpoint_folder.path_of(run_folder, taken.step)
    if world.broadcast(folder.exists()):
        return folder
    part = folder.with_name(folder.name + files.PART)
    translates = translated(OSError, partial(_not_written, folder, taken.bytes))
    with ExitStack() as opened:

        def begin() -> None:
            if world.is_first:
                files.make_folder(folder.parent)
                if shutil.disk_usage(folder.parent).free < taken.bytes:
                    raise OSError(0, "too little space on the disk")
                opened.enter_context(files.new_folder(folder))

        def write_own() -> dict[str, Facts]:
            contents = _contents(taken) if world.is_first else {}
            if taken.shard:
                contents[taken.shard] = safetensors_file(taken.pieces)
            measured = {name: Measured(pieces) for name, pieces in contents.items()}
            for name, pieces in measured.items():
                files.write_new(part / name, pieces)
            return {name: x.facts for name, x in measured.items()}

        def finish() -> None:
            if world.is_first:
                checkpoint_folder.seal(part, taken.step, _present(part, listed))
                opened.close()
                _tidy(run_folder, keep)

        world.together(translates(begin), CheckpointError)
        facts = world.together(translates(write_own), CheckpointError)
        listed = world.all_gather({name: [x.bytes, x.sha256] for name, x in facts.items()})
        world.together(translates(finish), CheckpointError)
    return folder


def _present(part: Path, listed: list[dict[str, Any]]) -> dict[str, Facts]:
    """The facts of the files that all processes have written. Raises OSError if one isn't in this folder."""
    facts = {name: Facts(*x) for files_of_one in listed for name, x in files_of_one.items()}
    for name, x in facts.items():
        if (part / name).stat().st_size != x.bytes:
            raise OSError(0, f"another length of {name}")
    return facts


def _not_written(folder: Path, needed: int, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"checkpoint, in {folder}: expected to write {needed:,} bytes, got {error.strerror} "
        f"({_free(folder.parents[1]):,} bytes are free); free some space, or check the disk"
        f"{', which all processes must share' if isinstance(error, FileNotFoundError) else ''}"
    )


def _tidy(run_folder: Path, keep: int) -> None:
    try:
        checkpoint_folder.tidy(run_folder, keep)
    except OSError as error:
        logger.warning("old checkpoints, in %s: expected to remove them, got %s", run_folder, error.strerror)


def _contents(taken: Snapshot) -> dict[str, Iterator[Piece]]:
    """The files of a snapshot, without those of pieces, by name."""
    values = {"step": taken.step, "tree": taken.skeleton}
    if taken.index is not None:
        values["shared"] = taken.index.packed()
    text = json.dumps(values, allow_nan=False).encode()
    return {TENSORS: safetensors_file(taken.tensors), VALUES: iter([text])}


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def open_newest(run_folder: Path) -> Saved | None:
    """The newest whole checkpoint of a run, with a warning about each damaged newer one; None if there is none at all.

    Raises CheckpointError if there are some, and all are damaged.
    """
    folders = checkpoint_folder.available(run_folder)
    for stray in checkpoint_folder.strays(run_folder):
        logger.warning("%s has no name of a checkpoint, and is ignored", stray)
    first: CheckpointError | None = None
    for folder in reversed(folders):
        try:
            return open_saved(folder)
        except CheckpointError as error:
            logger.warning("%s", error)
            first = first or error
    if first is not None:
        raise CheckpointError(f"{first}; none of the {len(folders)} in {run_folder} is whole") from first
    return None


def load_newest(run_folder: Path) -> Checkpoint | None:
    """The checkpoint that `open_newest` finds, with all tensors on the CPU."""
    saved = open_newest(run_folder)
    return None if saved is None else _loaded(saved)


def load(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its tensors on the CPU; as `open_saved`."""
    return _loaded(open_saved(folder))


def _loaded(saved: Saved) -> Checkpoint:
    return Checkpoint(saved.step, saved.tree({name: saved.whole(name) for name in saved.entries}))
