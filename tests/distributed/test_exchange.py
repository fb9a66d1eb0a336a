"""Sharded matrices that a function needs whole: each is put together on one process, and all processes have some.

Catches: shards put together in the wrong order or cut otherwise than they were, a matrix that two processes take or
none, work that one process has most of, messages that grow with the number of matrices.
"""

import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from mada_optim.matrices.polar_factor import polar
from mada_optim.sharding import exchange
from tests.distributed import group

SHAPES = [(6, 4), (5, 3), (2, 9), (7, 2, 3, 3), (1, 8), (8, 8), (6, 4), (9, 2, 2)]  # 2, 1 rows: none on some processes
LAYOUTS = [True, True, True, True, True, True, 2, 3]  # blocks of rows that no process has


def mesh_of(shape):
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")[-len(shape) :])


def drawn(i):
    return torch.randn(SHAPES[i], generator=torch.Generator().manual_seed(i))


def seen(i):
    """What the function is given: a matrix, or blocks of rows."""
    rows, blocks = SHAPES[i][0], LAYOUTS[i]
    return (rows, math.prod(SHAPES[i][1:])) if blocks is True else (blocks, rows // blocks, math.prod(SHAPES[i][1:]))


def replaced(shape):
    """The shards after `polar`, what they should be, how often it was called here, and the messages."""
    mesh, calls, sent = mesh_of(shape), [], []
    placements = [Replicate()] * (len(shape) - 1) + [Shard(0)]
    whole = [distribute_tensor(drawn(i), mesh, placements) for i in range(len(SHAPES))]
    shards = [x.to_local().clone() for x in whole]
    original = dist.all_to_all_single
    dist.all_to_all_single = lambda *x, **rest: (sent.append(x[1].numel()), original(*x, **rest))[1]

    def counted(x):
        calls.append(tuple(x.shape))
        return polar(x)

    exchange.replace(counted, list(map(exchange.Piece, shards, whole, LAYOUTS)))
    of_whole = [polar(drawn(i).reshape(seen(i))).reshape(SHAPES[i]) for i in range(len(SHAPES))]
    wanted = [distribute_tensor(x, mesh, placements).to_local() for x in of_whole]
    equal = [torch.equal(x, y) for x, y in zip(shards, wanted, strict=True)]
    return equal, calls, sent, sum(x.numel() for x in shards)


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (2, 2)], ids=["1", "2", "3", "2 replicas of 2"])
def test_each_matrix_is_put_together_once_and_cut_again(shape):
    ranks = group.run(torch.Size(shape).numel(), replaced, shape)
    assert all(all(equal) for equal, *_ in ranks)
    taken = [x for _, calls, *_ in ranks for x in calls]
    replicas = torch.Size(shape[:-1]).numel()
    assert sorted(taken) == sorted([seen(i) for i in range(len(SHAPES))] * replicas)
    if shape[-1] <= 3:
        assert all(calls for _, calls, *_ in ranks)
    for _, _, sent, elements in ranks:
        assert len(sent) == 2
        assert sent[0] == elements


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.integers(1, 8))
def test_processes_have_about_as_much_work(work, world):
    """What came last to the busiest went to the one that had least, which is no more than the mean of all else."""
    taken = exchange.takers(work, world)
    of_each = [[x for x, taker in zip(work, taken, strict=True) if taker == rank] for rank in range(world)]
    assert sorted(x for own in of_each for x in own) == sorted(work)
    busiest = max(of_each, key=sum)
    assert sum(busiest) <= (sum(work) - min(busiest)) / world + min(busiest)


@given(st.integers(1, 40), st.integers(1, 8))
def test_shares_are_those_of_chunk(rows, world):
    chunks = [len(x) for x in torch.chunk(torch.empty(rows), world)]
    ours = [exchange.share(torch.Size((rows, 3)), rank, world) for rank in range(world)]
    assert ours == [3 * x for x in chunks] + [0] * (world - len(chunks))


def layouts():
    mesh, plane = mesh_of((2,)), mesh_of((1, 2))

    def of(mesh, *placements):
        return exchange.layout(DTensor.from_local(torch.zeros(2, 2), mesh, placements, run_check=False))

    return [
        of(mesh, Shard(0)) == exchange.Layout(mesh, 0),
        of(plane, Replicate(), Shard(0)) == exchange.Layout(plane, 1),
        of(mesh, Shard(1)) is None,
        of(mesh, Replicate()) is None,
        of(plane, Shard(0), Shard(0)) is None,
    ]


def test_rows_over_one_dimension_of_a_mesh_are_a_layout():
    assert all(map(all, group.run(2, layouts)))
