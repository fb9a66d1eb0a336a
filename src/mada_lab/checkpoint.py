"""Checkpoints without pickle: `checkpoints/step_NNNNNNNN/` holds tensors in safetensors, everything else in JSON.

A checkpoint appears whole or not at all, and its folder is never written twice.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mada_lab.errors import CheckpointError
from mada_lab.files import new_folder, write_atomic

FORMAT_VERSION = 1
TENSORS = "tensors.safetensors"
VALUES = "values.json"
REMEDY = "remove this folder to fall back to the checkpoint before it"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped.

    Attributes:
        step: Number of optimizer steps done.
        tree: Nested dicts, lists and tuples of tensors and plain values, by name of what they belong to.
    """

    step: int
    tree: dict[str, Any]


def save(run_folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint, then removes all but the `keep` newest.

    Raises:
        CheckpointError: It can't be written; what was there before is untouched.
    """
    folder = run_folder / "checkpoints" / f"step_{checkpoint.step:08d}"
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(checkpoint.tree, "", tensors)
    values = {"format_version": FORMAT_VERSION, "step": checkpoint.step, "tree": skeleton}
    try:
        if not folder.exists():
            with new_folder(folder) as part:
                safetensors.torch.save_file(tensors, part / TENSORS)
                write_atomic(part / VALUES, json.dumps(values))
        for old in available(run_folder)[:-keep]:
            shutil.rmtree(old)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"checkpoint, in {folder}: expected to write it, got {error}; free some space") from error
    return folder


def available(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; whatever else lies there is passed over."""
    folder = run_folder / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(x for x in found if re.fullmatch(r"step_\d{8}", x.name) and x.is_dir())


def load_newest(run_folder: Path) -> Checkpoint:
    """The newest checkpoint of a run.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    folders = available(run_folder)
    if not folders:
        raise CheckpointError(
            f"checkpoint, in {run_folder / 'checkpoints'}: expected one to resume from, got none; "
            "use --init_from=scratch, or the out_dir of a run that has one"
        )
    return load(folders[-1])


def load(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its tensors on the CPU. Nothing in it is executed.

    Raises:
        CheckpointError: It is damaged or of another format.
    """
    try:
        values = json.loads((folder / VALUES).read_text())
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {values['format_version']}, not {FORMAT_VERSION}")
        tensors = safetensors.torch.load_file(folder / TENSORS)
        return Checkpoint(int(values["step"]), _unpack(values["tree"], tensors))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint, in {folder}: expected one that this version wrote, "
            f"got {type(error).__name__}: {error}; {REMEDY}"
        ) from error


def _pack(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `tree`, whose tensors go to `tensors` by their path. Keys keep their type, tuples stay tuples."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"dict": [[key, _pack(x, f"{path}/{key}", tensors)] for key, x in tree.items()]}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_pack(x, f"{path}/{i}", tensors) for i, x in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(tree).__name__} at {path}")


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(x, tensors) for key, x in content}
    if kind in ("list", "tuple"):
        items = [_unpack(x, tensors) for x in content]
        return items if kind == "list" else tuple(items)
    if kind == "value":
        return content
    raise ValueError(f"an entry of the unknown kind {kind!r}")


def random_state() -> dict[str, Tensor]:
    """The state of torch's global generators, which dropout draws from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), **{f"cuda:{i}": x for i, x in enumerate(cuda)}}


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Takes up torch's global generators where `random_state` found them."""
    torch.set_rng_state(state["cpu"])
    for name, x in state.items():
        if name != "cpu" and torch.cuda.is_available():
            torch.cuda.set_rng_state(x, name)
