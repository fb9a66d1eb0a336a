"""The state of a run between processes: gathered, digested, and read from a checkpoint, tensor by tensor.

Any number of processes can resume from a checkpoint, however they shard the model and whoever wrote it. A process needs
room for at most one whole tensor beside its shards; only `gathered`, for one file, holds all of them on the first one.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from mada_lab.checkpoints import folder, row_shards
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.checkpoints.fingerprint import fingerprint
from mada_lab.checkpoints.reading import NAMES, Saved, same_here
from mada_lab.checkpoints.tree import Tensors, pack, safetensors_file, unpack
from mada_lab.compute.world import ALONE, World
from mada_lab.errors import CheckpointError
from mada_optim.sharding import dtensors

PER_TENSOR = ("step", "applied")  # tensors of an optimizer state that aren't shaped like the parameter


def gathered(tree: Any, world: World) -> Any:
    """`tree` with whole tensors on the CPU instead of shards; on other processes than the first, with None instead."""
    if world.size == 1:
        return tree
    if dtensors.is_sharded(tree):
        whole = tree.full_tensor()
        return whole.cpu() if world.is_first else None
    if isinstance(tree, dict):
        return {key: gathered(x, world) for key, x in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(x, world) for x in tree)
    return tree


def digest(tree: Any, world: World = ALONE, of_shards: bool = False) -> str:
    """Digits that change with any bit of any tensor in `tree`; on other processes than the first, maybe "".

    All processes take part. If `of_shards`, each digests its own shards (`fingerprint`); else the first one digests all
    tensors, one by one, and their names, types and shapes: 16 hexadecimal digits of SHA-256.
    """
    tensors: Tensors = {}
    pack(tree, tensors)
    if of_shards:
        return fingerprint(tensors, world)
    if not world.is_first and not any(map(dtensors.is_sharded, tensors.values())):
        return ""
    total = hashlib.sha256()
    for piece in safetensors_file(tensors):
        if world.is_first:
            total.update(piece)
    return total.hexdigest()[:16] if world.is_first else ""


def load_on_all(
    saved: Saved | None, run_folder: Path, model: nn.Module, optimizer: Optimizer, world: World
) -> Checkpoint | None:
    """The checkpoint that the first process has found, on all: whole tensors on the CPU, and shards of sharded ones.

    Where all processes see its files, each reads its part of them; else the first one reads, and sends.
    Raises CheckpointError on all if it can't be read any more.
    """
    facts = world.broadcast(None if saved is None else saved.facts())
    if facts is None:
        return None
    seen = saved or same_here(folder.path_of(run_folder, facts["step"]), facts)
    owners, all_see = _owners(model, optimizer), all(world.all_gather(seen is not None))
    if seen is not None and all_see:
        tensors = world.together(lambda: {x: _read(seen, x, _owner(x, owners)) for x in seen.entries}, CheckpointError)
    else:
        tensors = {}
        for name, (dtype, shape) in facts["entries"].items():
            mine = saved.whole(name) if saved is not None else None
            whole = world.broadcast_tensor(mine, shape, NAMES[dtype]).cpu()
            tensors[name] = _share(whole, _owner(name, owners))
    return Checkpoint(facts["step"], unpack(facts["tree"], tensors))


def _read(saved: Saved, name: str, p: Tensor | None) -> Tensor:
    """A tensor; of one that is sharded like the parameter `p`, this process's shard."""
    if p is None or tuple(p.shape) != saved.entries[name].shape:
        return saved.whole(name)
    return dtensors.like(p, saved.rows(name, *_own_rows(p)).to(p.device))


def _share(whole: Tensor, p: Tensor | None) -> Tensor:
    """As `_read`, from a whole tensor."""
    if p is None or p.shape != whole.shape:
        return whole
    return dtensors.like(p, whole[slice(*_own_rows(p))].clone().to(p.device))


def _own_rows(p: Tensor) -> tuple[int, int]:
    piece = row_shards.place(p)
    return row_shards.rows(p.shape[0], piece.number, piece.count)


def _owner(name: str, owners: Mapping[str, Tensor]) -> Tensor | None:
    """The sharded parameter that a tensor of a checkpoint belongs to."""
    path, _, slot = name.rpartition("/")
    return owners.get(name, None if slot in PER_TENSOR else owners.get(path))


def _owners(model: nn.Module, optimizer: Optimizer) -> Mapping[str, Tensor]:
    """The sharded parameters, by the paths of their weights and of their optimizer state in a checkpoint."""
    owners = {f"/state/model/{name}": p for name, p in model.named_parameters()}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    owners |= {f"/state/optimizer/state/{i}": p for i, p in enumerate(params)}
    return {path: p for path, p in owners.items() if dtensors.is_sharded(p)}
