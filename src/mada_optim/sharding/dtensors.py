"""Parameters that are sharded over processes, as by FSDP2's `fully_shard`: DTensors, each with a local shard.

A process steps its own shards like plain parameters. Hypergradients, and whether gradients are finite, are summed over
the mesh dimensions on which parameters are sharded; nothing is sent over dimensions on which all have replicas. Where
only some have replicas, as norms beside layers with tensor parallelism, each of these counts a part.

A rule that needs a whole matrix sees DTensors (`gathering`): pointwise operations stay on the shards, and others
(`mada_optim.matrices.polar_factor`) gather their argument on each process.
"""

import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim.layouts import BATCHED, Layout, view_shape, viewing
from mada_optim.rule import Coefficients, Rule, Slots

MODULE = "torch.distributed.tensor"
WHOLE = frozenset({Tensor, torch.nn.Parameter})  # the usual types, which are no shards
ROUNDING = 1e-3  # relative difference of norms that is no sign of different gradients


def is_sharded(x: Any) -> bool:
    """Whether `x` is a DTensor. Imports nothing: if the module of DTensors was never imported, there is none."""
    if type(x) in WHOLE:
        return False
    module = sys.modules.get(MODULE)
    return module is not None and isinstance(x, module.DTensor)


def local(x: Tensor) -> Tensor:
    """This process's part of `x`: the shard of a DTensor, perhaps empty; a plain tensor itself."""
    shard: Tensor = x.to_local() if is_sharded(x) else x  # type: ignore[attr-defined]
    return shard


def both(p: Any, g: Any) -> tuple[Tensor, Tensor]:
    """This process's part of `p`, and of its gradient. Raises RuntimeError if they are laid out differently."""
    if type(p) in WHOLE and type(g) in WHOLE:
        return p, g
    if is_sharded(p) and (not is_sharded(g) or g.placements != p.placements or g.device_mesh != p.device_mesh):
        got = g.placements if is_sharded(g) else "a plain tensor"
        raise RuntimeError(f"gradient of a sharded parameter: expected {p.placements}, got {got}; redistribute it")
    return local(p), local(g)


class Reduction(NamedTuple):
    """The process groups over which parameters are sharded; sums go over one after the other."""

    groups: tuple[Any, ...] = ()
    device_type: str = "cpu"  # of the messages

    def replicas(self, x: Tensor) -> int:
        """How many of the processes have the same numbers of `x` as this one."""
        own = {_members(group) for group in _groups(x)}
        return math.prod(len(members) for group in self.groups if (members := _members(group)) not in own)


def reduction(params: Iterable[Tensor]) -> Reduction:
    """The groups over which hypergradients are summed; none for whole parameters.

    Each parameter may be sharded over some of the groups, and have replicas in the others, as a parameter that is not a
    DTensor has in all of them. Raises RuntimeError if two groups have more than one process in common, as a sum over
    both would count some parts twice.
    """
    if MODULE not in sys.modules or WHOLE.issuperset(map(type, params := list(params))):
        return Reduction()
    layouts = {layout: x for x in params if (layout := _layout(x)) is not None}
    groups = {_members(group): group for x in layouts.values() for group in _groups(x)}
    if any(len(set(x) & set(y)) > 1 for x, y in itertools.combinations(groups, 2)):
        got = " and ".join(sorted(f"{placements} over {mesh}" for mesh, placements in layouts))
        raise RuntimeError(
            f"parameters: expected all to be sharded over dimensions of one mesh, got {got}; shard all of them over "
            "the same processes, or use one optimizer for each kind"
        )
    return Reduction(tuple(groups.values()), next((mesh.device_type for mesh, _ in layouts), "cpu"))


def require_replicas(params: Iterable[Tensor], over: Reduction) -> None:
    """Refuses gradients of whole parameters (RuntimeError) that differ between processes that share the others.

    All processes must call it. Norms are compared, as sums may be rounded differently; that waits for the device.
    """
    whole = [p for p in params if not is_sharded(p)]
    if not over.groups or not whole:
        return
    norms = [0.0 if p.grad is None else torch.linalg.vector_norm(p.grad).item() for p in whole]
    ends = torch.tensor([norms, [-x for x in norms]], dtype=torch.float64, device=over.device_type)
    for group in over.groups:
        torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX, group=group)
    if bool((ends.sum(0) > ROUNDING * ends[0]).any()):
        raise RuntimeError(
            "parameters: expected all to be sharded, or equal gradients of those that are not on all processes, got "
            "plain tensors with different ones; shard all of them (`fully_shard` of the root module takes what its "
            "blocks have left), or average these gradients before the step"
        )


def require_one_process(owner: str) -> None:
    """Refuses a wrapper (ValueError) that shows each of several processes a part of the parameters."""
    world = processes()
    if world > 1:
        raise ValueError(
            f"{owner} in a wrapper that repeats its keywords in each group, as ZeroRedundancyOptimizer does, on "
            f"{world} processes: expected reduce_group, got None, with which each would learn from its part of the "
            "parameters alone; pass reduce_group=torch.distributed.group.WORLD, shard the model by `fully_shard` "
            "instead, or learn nothing (learn=())"
        )


def processes() -> int:
    """The number of processes of torch.distributed; 1 if it is not in use."""
    in_use = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if in_use else 1


def _layout(x: Any) -> Any:
    return (x.device_mesh, x.placements) if is_sharded(x) else None


def _groups(x: Any) -> list[Any]:
    """The groups over which `x` is sharded. Raises RuntimeError for one whose numbers are parts of sums."""
    if not is_sharded(x):
        return []
    if any(placement.is_partial() for placement in x.placements):
        raise RuntimeError(f"parameters: expected shards or replicas, got {x.placements}; redistribute them")
    return [x.device_mesh.get_group(i) for i, placement in enumerate(x.placements) if not placement.is_replicate()]


def _members(group: Any) -> tuple[int, ...]:
    return tuple(sorted(torch.distributed.get_process_group_ranks(group)))


def summed(message: Tensor, groups: Sequence[Any], device_type: str) -> Tensor:
    """The sum of `message` over all groups, bit-identical on all their processes."""
    sent = message.to(device_type)
    for group in groups:
        torch.distributed.all_reduce(sent, group=group)
    return sent.to(message.device)


def like(p: Tensor, shard: Tensor) -> Tensor:
    """A shard of state, with one number per element or row of `p`, as a DTensor like `p`; shares its memory.

    What has one number per row has the first dimensions of `p`; it isn't cut along the others.
    """
    if not is_sharded(p):
        return shard
    from torch.distributed.tensor import DTensor

    shape = p.shape[: shard.ndim] + shard.shape[p.ndim :]  # a complex parameter is seen with one dimension more
    stride = torch.empty(shape, device="meta").stride()
    mesh, placements = p.device_mesh, placements_of(p, shard.ndim)  # type: ignore[attr-defined]
    return DTensor.from_local(shard, mesh, placements, run_check=False, shape=shape, stride=stride)


def placements_of(p: Any, dimensions: int) -> list[Any]:
    """How a tensor with the first `dimensions` of the DTensor `p` is cut, if it is cut like `p`."""
    from torch.distributed.tensor import Replicate

    return [x if getattr(x, "dim", 0) < dimensions else Replicate() for x in p.placements]


def taken_from(whole: Tensor, p: Tensor) -> Tensor:
    """This process's part of `whole`, which has one number per element or row of `p`: a DTensor, or all of it."""
    if not is_sharded(p):
        return all_of(whole)
    from torch.distributed.tensor import DTensor, Replicate

    mesh, placements = p.device_mesh, placements_of(p, whole.ndim)  # type: ignore[attr-defined]
    if not isinstance(whole, DTensor):
        replicas = [Replicate()] * mesh.ndim
        whole = DTensor.from_local(whole.to(p.device), mesh, replicas, run_check=False)
    shard: Tensor = whole.redistribute(mesh, placements).to_local()
    return shard


def first_element(p: Any) -> int:
    """The place in the whole of the first element of this process's shard, if shards lie one after another.

    So they do under FSDP2, which cuts rows. Replicas of a shard have the same place.
    """
    if not is_sharded(p):
        return 0
    shape, rank = list(p.shape), 0
    for i, x in enumerate(p.placements):
        if not x.is_replicate():
            world = p.device_mesh.size(i)
            rank = rank * world + p.device_mesh.get_local_rank(i)
            shape[x.dim] = -(-shape[x.dim] // world)  # as by torch.chunk
    place: int = rank * math.prod(shape)
    return place


def cut_matrices(p: Any, layout: Layout) -> bool:
    """Whether shards of `p` have parts of matrices, and not whole matrices of a batch."""
    if not is_sharded(p):
        return False
    batch_dimensions = p.ndim - 2 if layout == BATCHED else 0
    return any(getattr(x, "dim", p.ndim) >= batch_dimensions for x in p.placements if not x.is_replicate())


def gathering(rule: Rule, p: Tensor, layout: Layout, differentiated: bool) -> Rule:
    """`rule` for the shards of `p`, if it needs whole matrices.

    Pointwise operations stay on the shards, unless the matrices are a view of the whole that no shard has. Raises
    RuntimeError if it is to be `differentiated`: a vector-Jacobian product gives no sum over shards.
    """
    if differentiated:
        raise RuntimeError(
            "parameters: expected whole ones, as a coefficient of a rule that is not pointwise is learned, got shards; "
            "learn nothing but lr, with a horizon, or replicate the parameters"
        )

    viewed = viewing(rule, layout)

    def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        g, s = like(p, g), {name: like(p, x) if x.ndim else x for name, x in s.items()}
        if view_shape(g.shape, layout) != g.shape:
            g, s = all_of(g), {name: all_of(x) for name, x in s.items()}
        u, after = viewed.update(c, g, s, t)
        return taken_from(u, p), {name: taken_from(x, p) if x.ndim else x for name, x in after.items()}

    return replace(rule, update=update)


def all_of(x: Tensor) -> Tensor:
    """The whole of a DTensor, on each process; a plain tensor itself."""
    whole: Tensor = x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]
    return whole


def outline(p: Tensor) -> Tensor:
    """The whole of `p` without numbers, on the device "meta"."""
    return torch.empty(p.shape, dtype=p.dtype, device="meta")
