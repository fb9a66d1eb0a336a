"""Parameters that are sharded over processes, as by FSDP2's `fully_shard`: DTensors, each with a local shard.

A process steps its own shards like plain parameters. Hypergradients, and whether gradients are finite, are summed over
the mesh dimensions on which parameters are sharded; nothing is sent over dimensions with replicas.

A rule that needs a whole matrix sees DTensors (`gathering`): pointwise operations stay on the shards, and others
(`mada_optim.matrices.polar_factor`) gather their argument on each process.
"""

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mada_optim.layouts import BATCHED, Layout, view_shape, viewing
from mada_optim.rule import Coefficients, Rule, Slots

MODULE = "torch.distributed.tensor"
WHOLE = frozenset({Tensor, torch.nn.Parameter})  # the usual types, which are no shards


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


def reduction(params: Iterable[Tensor]) -> tuple[list[Any], str]:
    """The process groups to sum over, one after the other, and the device type to send from; none for whole parameters.

    Raises RuntimeError if parameters are sharded over different processes, or only some are: a sum would count some
    twice.
    """
    if MODULE not in sys.modules or WHOLE.issuperset(map(type, params := list(params))):
        return [], "cpu"
    layouts = {_layout(x) for x in params}
    wanted = {_sharded_dimensions(layout) for layout in layouts}
    if len(wanted) > 1:
        got = " and ".join(sorted("plain" if layout is None else str(layout[1]) for layout in layouts))
        raise RuntimeError(
            f"parameters: expected all to be sharded over the same mesh dimensions, got {got}; "
            "shard all of them (`fully_shard` of the root module takes what its blocks have left), or use one "
            "optimizer for each kind"
        )
    ((mesh, dimensions),) = wanted or {(None, ())}
    return [mesh.get_group(i) for i in dimensions], mesh.device_type if dimensions else "cpu"


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


def _sharded_dimensions(layout: Any) -> tuple[Any, tuple[int, ...]]:
    if layout is None:
        return None, ()
    mesh, placements = layout
    if any(x.is_partial() for x in placements):
        raise RuntimeError(f"parameters: expected shards or replicas, got {placements}; redistribute them")
    dimensions = tuple(i for i, x in enumerate(placements) if not x.is_replicate())
    return (mesh, dimensions) if dimensions else (None, ())


def summed(message: Tensor, groups: list[Any], device_type: str) -> Tensor:
    """The sum of `message` over all groups, bit-identical on all their processes."""
    sent = message.to(device_type)
    for group in groups:
        torch.distributed.all_reduce(sent, group=group)
    return sent.to(message.device)


def like(p: Tensor, shard: Tensor) -> Tensor:
    """A shard of state, with one number per element of `p`, as a DTensor like `p`; shares its memory."""
    if not is_sharded(p):
        return shard
    from torch.distributed.tensor import DTensor

    shape = p.shape + shard.shape[p.ndim :]  # a complex parameter is seen with one dimension more
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(shard, p.device_mesh, p.placements, run_check=False, shape=shape, stride=stride)  # type: ignore[attr-defined]


def taken_from(whole: Tensor, p: Tensor) -> Tensor:
    """This process's part of `whole`, which has one number per element of `p`: a DTensor, or all of it."""
    if not is_sharded(p):
        return all_of(whole)
    from torch.distributed.tensor import DTensor, Replicate

    mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]
    if not isinstance(whole, DTensor):
        replicas = [Replicate()] * mesh.ndim
        whole = DTensor.from_local(whole.to(p.device), mesh, replicas, run_check=False)
    shard: Tensor = whole.redistribute(mesh, placements).to_local()
    return shard


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
