"""Reads checkpoints: opens one whose every byte is as it was written, and reads its tensors, or only some rows."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.checkpoints import row_shards
from mada_lab.checkpoints.folder import MANIFEST, Facts
from mada_lab.checkpoints.tree import DTYPES, Tensors, unpack
from mada_lab.errors import one_line, translated
from mada_lab.system import strict_json

TENSORS = "tensors.safetensors"
VALUES = "values.json"
VALUES_BYTES = 1 << 23  # at most: a hundred bytes per tensor, so that JSON made to fill the memory is refused unread
MOST_PIECES = 1 << 16
SMALL = 64  # elements: tensors up to this size are read for `outline`

NAMES = {name: dtype for dtype, name in DTYPES.items()}


def shard_name(number: int) -> str:
    """The name of the file of pieces with this number."""
    return f"shard_{number:05d}.safetensors"


@dataclass(frozen=True)
class Entry:
    """Type and shape of a tensor."""

    dtype: str  #: by its name in safetensors
    shape: tuple[int, ...]  #: of the whole tensor

    @property
    def outline(self) -> Tensor:
        """The tensor without its numbers, on the device "meta"."""
        return torch.empty(self.shape, dtype=NAMES[self.dtype], device="meta")

    def packed(self) -> list[Any]:
        """As JSON."""
        return [self.dtype, list(self.shape)]


@dataclass(frozen=True)
class Index:
    """The tensors that are stored in pieces, cut as `mada_lab.checkpoints.row_shards` says."""

    count: int  #: pieces of each tensor, which is the number of files
    entries: Mapping[str, Entry]  #: by name

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], count: int) -> "Index":
        """The index of whole tensors, or of DTensors."""
        return cls(count, {name: Entry(DTYPES[x.dtype], tuple(x.shape)) for name, x in tensors.items()})

    @property
    def bytes(self) -> int:
        """The size of all tensors."""
        return sum(x.outline.numel() * x.outline.element_size() for x in self.entries.values())

    def packed(self) -> dict[str, Any]:
        """As JSON."""
        return {"count": self.count, "tensors": {name: x.packed() for name, x in self.entries.items()}}

    @classmethod
    def unpacked(cls, content: Any) -> "Index":
        """The index that `packed` gave. Raises ValueError, KeyError, TypeError, AttributeError for anything else."""
        count, tensors = content["count"], content["tensors"]
        _require(type(count) is int and 0 <= count <= MOST_PIECES, f"pieces in up to {MOST_PIECES} files", count)
        for dtype, shape in tensors.values():
            lengths_are_good = all(type(x) is int and x >= 0 for x in shape)
            _require(dtype in NAMES and shape and lengths_are_good, "a type, and a shape of 1 or more", [dtype, shape])
        return cls(count, {name: Entry(dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()})


class Saved:
    """A checkpoint whose files are as they were written and fit each other. Tensors are read on request.

    Attributes:
        entries: Types and shapes of all tensors, by name.
        outline: The tree, with large tensors on the device "meta": their shapes and types.
    """

    def __init__(self, folder: Path, step: int, skeleton: Any, index: Index) -> None:
        """Reads the headers of the files. Raises ValueError, OSError, SafetensorError if they don't fit the index."""
        self.folder, self.step, self._skeleton, self._index = folder, step, skeleton, index
        whole = headers(folder / TENSORS)
        for number in range(index.count):
            expected = {name: self._piece(name, number) for name in index.entries}
            got = headers(folder / shard_name(number))
            _require(expected == got, "the pieces of the index", f"others in {shard_name(number)}")
        _require(not whole.keys() & index.entries.keys(), "each tensor once", "some twice")
        self.entries: dict[str, Entry] = {**whole, **index.entries}
        known = {name: x.outline for name, x in self.entries.items()}
        self.outline = self.tree({name: self.whole(name) if x.numel() <= SMALL else x for name, x in known.items()})

    def _piece(self, name: str, number: int) -> Entry:
        dtype, (length, *rest) = self._index.entries[name].dtype, self._index.entries[name].shape
        first, end = row_shards.rows(length, number, self._index.count)
        return Entry(dtype, (end - first, *rest))

    def tree(self, tensors: Tensors) -> dict[str, Any]:
        """The tree, with these tensors in their places."""
        tree: dict[str, Any] = unpack(self._skeleton, tensors)
        return tree

    def whole(self, name: str) -> Tensor:
        """A copy of a tensor, on the CPU: its file may be removed later. Raises CheckpointError if it can't be read."""
        if name in self._index.entries:
            return self.rows(name, 0, self.entries[name].shape[0])
        with self._reading(), safe_open(self.folder / TENSORS, "pt") as file:
            copy: Tensor = file.get_tensor(name).clone()
            return copy

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of a tensor of 1 dimension or more, without reading the others. Raises as `whole`."""
        entry = self.entries[name]
        out = torch.empty((stop - start, *entry.shape[1:]), dtype=NAMES[entry.dtype])
        done = 0
        with self._reading():
            for file, first, end in self._parts(name, start, stop):
                with safe_open(self.folder / file, "pt") as opened:
                    out[done : done + end - first] = opened.get_slice(name)[first:end]
                done += end - first
        return out

    def _reading(self) -> AbstractContextManager[None]:
        return _translated((OSError, SafetensorError, RuntimeError), self.folder, "a readable file")

    def _parts(self, name: str, start: int, stop: int) -> list[tuple[str, int, int]]:
        """The files that hold the rows, each with the first and the end of its own rows."""
        if name not in self._index.entries:
            return [(TENSORS, start, stop)] if stop > start else []
        parts = row_shards.overlaps(self.entries[name].shape[0], self._index.count, start, stop)
        return [(shard_name(number), first, end) for number, first, end in parts if end > first]

    def facts(self) -> dict[str, Any]:
        """As JSON, what another process needs to read the same checkpoint (`same_here`), or to receive its tensors."""
        entries = {name: x.packed() for name, x in self.entries.items()}
        facts = {"step": self.step, "tree": self._skeleton, "shared": self._index.packed(), "entries": entries}
        return {**facts, "sealed": _sealed(self.folder)}


def same_here(folder: Path, facts: Mapping[str, Any]) -> Saved | None:
    """The checkpoint in `folder`, if it is the one that these `facts` of another process describe."""
    try:
        if _sealed(folder) != facts["sealed"]:
            return None
        return Saved(folder, facts["step"], facts["tree"], Index.unpacked(facts["shared"]))
    except (OSError, ValueError, SafetensorError):
        return None


def _sealed(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def open_saved(folder: Path) -> Saved:
    """The checkpoint in `folder`, once every byte is verified. Raises CheckpointError for damage or another format."""
    facts = checkpoint_folder.verify(folder)
    if VALUES in facts and facts[VALUES].bytes > VALUES_BYTES:
        expected, got = f"at most {VALUES_BYTES} bytes", f"{facts[VALUES].bytes} bytes"
        raise checkpoint_folder.damaged(folder / VALUES, expected, got)
    kinds = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
    with _translated(kinds, folder, "one that this version wrote"):
        return _opened(folder, facts)


def _translated(kinds: tuple[type[Exception], ...], folder: Path, expected: str) -> AbstractContextManager[None]:
    """Turns errors of these `kinds` into that of a damaged checkpoint."""
    return translated(kinds, lambda error: checkpoint_folder.damaged(folder, expected, one_line(error, 120)))


def _opened(folder: Path, facts: Mapping[str, Facts]) -> Saved:
    _require({TENSORS, VALUES} <= set(facts), f"{TENSORS} and {VALUES}", ", ".join(sorted(facts)))
    values: Any = strict_json.loads((folder / VALUES).read_bytes())
    index = Index.unpacked(values["shared"]) if "shared" in values else Index(0, {})
    files = {TENSORS, VALUES, *map(shard_name, range(index.count))}
    _require(files == set(facts), f"{len(files)} files, the last {max(files)}", ", ".join(sorted(facts)))
    _require(values["step"] == checkpoint_folder.step_of(folder), f"the step of {folder.name}", values["step"])
    saved = Saved(folder, values["step"], values["tree"], index)
    _require(isinstance(saved.outline, dict), "a dict", type(saved.outline).__name__)
    return saved


def headers(path: Path) -> dict[str, Entry]:
    """Types and shapes of the tensors in a safetensors file, by name."""
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 it has no other way to iterate
        return {name: Entry(x.get_dtype(), tuple(x.get_shape())) for name, x in slices.items()}


def _require(condition: object, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"expected {expected}, got {str(got)[:100]}")
