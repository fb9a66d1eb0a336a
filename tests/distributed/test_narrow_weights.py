"""Narrow weights that are rounded stochastically, and sharded: each process rounds as one process would.

Catches: a shard with the noise of another, replicas that differ.
"""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from mada_optim import Adam
from tests.distributed import group

SHAPES = ((7, 5), (1, 3), (4, 2, 3))  # rows that two processes share unevenly, or not at all


def trained(place=lambda x: x):
    """The weights after some steps; `place` makes DTensors of weights and gradients."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(place(torch.randn(shape).bfloat16())) for shape in SHAPES]
    opt = Adam(params, lr=1e-3, weight_decay=0.1, weights="stochastic")
    for _ in range(5):
        for p, shape in zip(params, SHAPES, strict=True):
            p.grad = place(torch.randn(shape).bfloat16())
        opt.step()
    return params


def sharded():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    placements = [Replicate(), Shard(0)]
    params = trained(lambda x: distribute_tensor(x, mesh, placements))
    locals_ = [p.to_local().detach() for p in params]
    wanted = [distribute_tensor(p.detach(), mesh, placements).to_local() for p in trained()]
    return [torch.equal(x, y) for x, y in zip(locals_, wanted, strict=True)]


def test_shards_and_their_replicas_are_rounded_as_the_whole():
    assert group.run(4, sharded) == [[True] * len(SHAPES)] * 4
