"""Parameters sharded over two processes: the hypergradients are summed over the group.

Catches: coefficients that drift apart on the ranks, and a bad gradient on one rank that the other steps over.
"""

import pytest
import torch
import torch.multiprocessing as mp

from mada_optim import MADA
from tests.problems import everything, give_gradients, learning, parameters, same_bits

STEPS = 6


def made(params, learn, **options):
    return learning(params, **options) if learn else MADA(params, learn=(), **options)


def gradients_of(step):
    whole = parameters()
    give_gradients(whole, step)
    return [p.grad for p in whole]


def rank(index, store, out, learn):
    """Rank 0 has the matrix, rank 1 the rest; in step 3 only rank 1 sees an infinite gradient."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=2)
    torch.manual_seed(0)
    mine = slice(0, 1) if index == 0 else slice(1, None)
    params = parameters()[mine]
    opt = made(params, learn, reduce_group=torch.distributed.group.WORLD)
    for step in range(STEPS):
        before = everything(opt)
        for p, g in zip(params, gradients_of(step)[mine], strict=True):
            p.grad = g
        if step == 3 and index == 1:
            params[0].grad[0] = float("inf")
        opt.step()
        assert step != 3 or same_bits(everything(opt), before)
    torch.save({"coefficients": opt.coefficients(), "params": [p.detach() for p in params]}, f"{out}.{index}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("learn", [True, False])
def test_sharded_equals_whole(tmp_path, learn):
    mp.spawn(rank, (tmp_path / "store", tmp_path / "out", learn), nprocs=2)
    shards = [torch.load(f"{tmp_path / 'out'}.{i}", weights_only=True) for i in range(2)]

    torch.manual_seed(0)
    params = parameters()
    whole = made(params, learn)
    for step in range(STEPS):
        if step != 3:
            for p, g in zip(params, gradients_of(step), strict=True):
                p.grad = g
            whole.step()
    assert shards[0]["coefficients"] == shards[1]["coefficients"]
    for q, x in whole.coefficients().items():
        assert abs(shards[0]["coefficients"][q] - x) < 1e-9
    for p, sharded in zip(params, [x for shard in shards for x in shard["params"]], strict=True):
        torch.testing.assert_close(p.detach(), sharded)
