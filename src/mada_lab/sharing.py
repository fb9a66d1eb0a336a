"""The state of a run between processes: gathered whole on the first, which saves it, and handed out from there.

A checkpoint is the same whatever the number of processes, and however they share the model's memory: tensors are
gathered, and handed out, one by one, so that no process needs room for more than one whole tensor beside its share.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from mada_lab.checkpoint import Checkpoint
from mada_lab.distributed import World
from mada_lab.packing import DTYPES, Tensors, pack, unpack
from mada_optim import shards

PER_TENSOR = ("step", "applied")  # what states of optimizers have once for a parameter, not once per element
NAMES = {name: dtype for dtype, name in DTYPES.items()}


def gathered(tree: Any, world: World) -> Any:
    """`tree` with whole tensors, on the CPU, in place of shards; on other processes than the first, with None there."""
    if world.size == 1:
        return tree
    if shards.is_sharded(tree):
        whole = tree.full_tensor()
        return whole.cpu() if world.is_first else None
    if isinstance(tree, dict):
        return {key: gathered(x, world) for key, x in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(x, world) for x in tree)
    return tree


def handed_out(saved: Checkpoint | None, model: nn.Module, optimizer: Optimizer, world: World) -> Checkpoint | None:
    """What the first process has, on all: whole tensors on the CPU, and shards of what they have shards of."""
    if world.size == 1:
        return saved
    tensors: Tensors = {}
    skeleton = None
    if saved is not None:
        skeleton = {"step": saved.step, "tree": pack(saved.tree, tensors, path="")}
    listed = [[name, list(x.shape), DTYPES[x.dtype]] for name, x in tensors.items()]
    skeleton, listed = world.told_json([skeleton, listed])
    if skeleton is None:
        return None
    owners = _owners(model, optimizer)
    for name, shape, dtype in listed:
        x, p = world.told_tensor(tensors.get(name), shape, NAMES[dtype]), _owner(name, owners)
        tensors[name] = _share(x, p) if p is not None and p.shape == x.shape else x.cpu()
    return Checkpoint(skeleton["step"], unpack(skeleton["tree"], tensors))


def _share(x: Tensor, p: Tensor) -> Tensor:
    return shards.like(p, shards.taken_from(x, p).clone())


def _owner(name: str, owners: Mapping[str, Tensor]) -> Tensor | None:
    path, _, slot = name.rpartition("/")
    return owners.get(name, None if slot in PER_TENSOR else owners.get(path))


def _owners(model: nn.Module, optimizer: Optimizer) -> Mapping[str, Tensor]:
    """The sharded parameters, by the path of their weights, and of their optimizer's state, in a checkpoint."""
    found = {f"/state/model/{name}": p for name, p in model.named_parameters()}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    found |= {f"/state/optimizer/state/{i}": p for i, p in enumerate(params)}
    return {path: p for path, p in found.items() if shards.is_sharded(p)}
