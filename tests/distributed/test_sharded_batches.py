"""Experts and fused projections whose shards lie on several processes.

Catches: shards of experts that are gathered though each has whole ones, blocks that are made of one shard's rows,
processes that make different parts of a step and wait for each other, a hypergradient that isn't the sum over shards.
"""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.engines.staged import engine as staged
from tests.distributed import group
from tests.problems import along_trace

#: Shape, `matrix`, and the dimension that is cut. 3 experts are 2 and 1, 1 is 1 and none; 9 rows are 5 and 4.
PACKED = [
    ((3, 4, 20), "batched", 0),
    ((1, 4, 20), "batched", 0),
    ((2, 3, 5, 6), "batched", 1),
    ((4, 6, 8), "batched", 2),
    ((3, 4, 5), "batched", 0),  # 40 and 20 elements, beside matrices that must be in the same part of a step everywhere
    ((9, 5), 3, 0),
    ((12, 8), 3, 1),
    ((8, 2, 3), 2, 0),
    ((5, 4, 3), True, 0),
    ((7, 6), True, 0),
    ((6,), True, 0),
]
WHOLE = [i for i, (_, said, dim) in enumerate(PACKED) if said == "batched" and dim < 2]  # on each process


def drawn(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def optimizer(params, **options):
    groups = [{"params": [p], "matrix": said} for p, (_, said, _) in zip(params, PACKED, strict=True)]
    return HyperOptimizer(groups, lr=1e-2, weight_decay=0.1, rule="mada_matrix", **options)


def steps(opt, params, seeds, placed):
    for seed in seeds:
        for i, p in enumerate(params):
            p.grad = placed(drawn(p.shape, 100 * seed + i), i)
        opt.step()


def in_one(options):
    params = [nn.Parameter(drawn(shape, i)) for i, (shape, *_) in enumerate(PACKED)]
    opt = optimizer(params, **options)
    steps(opt, params, range(5), lambda x, _: x)
    return [p.detach() for p in params], opt.coefficients()


def in_several(mesh_shape, options):
    staged.BUFFER = 60  # elements, so that there are several parts
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=("replicas", "shards")[-len(mesh_shape) :])

    def placed(x, i):
        return distribute_tensor(x, mesh, [*[Replicate()] * (mesh.ndim - 1), Shard(PACKED[i][2])])

    params = [nn.Parameter(placed(drawn(shape, i), i)) for i, (shape, *_) in enumerate(PACKED)]
    again = [nn.Parameter(p.detach().clone()) for p in params]
    opt, other = optimizer(params, **options), optimizer(again, **options)
    steps(opt, params, range(3), placed)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for p, q in zip(params, again, strict=True):
        q.data.copy_(p.data)
    for x, own in ((opt, params), (other, again)):
        steps(x, own, range(3, 5), placed)
    alike = all(torch.equal(p.to_local(), q.to_local()) for p, q in zip(params, again, strict=True))
    return [p.full_tensor().detach().numpy() for p in params], opt.coefficients(), alike


OPTIONS = {
    "plain": {"learn": ()},
    "lr learned": {"learn": along_trace(rate=0.05, start=1)},
    "a part of Adam": {"learn": (), "omega": 0.5},
}


def assert_alike(ranks, options):
    expected, coefficients = in_one(options)
    for params, read, alike in ranks:
        for x, y in zip(params, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(x), y, rtol=1e-4, atol=1e-5)
        assert read == pytest.approx(coefficients, rel=1e-5)
        assert alike


#: A rule with both members has no loops.
WAYS = [(name, engine) for name in OPTIONS for engine in ("auto", "tiled", "eager")]
WAYS.remove(("a part of Adam", "tiled"))


@pytest.mark.parametrize(("name", "engine"), WAYS)
def test_shards_step_as_the_whole(name, engine):
    options = {**OPTIONS[name], "engine": engine}
    assert_alike(group.run(2, in_several, (2,), options), options)


@pytest.mark.parametrize("shape", [(3,), (2, 2)], ids=["3", "2 replicas of 2"])
def test_so_they_do_on_other_meshes(shape):
    options = OPTIONS["lr learned"]
    assert_alike(group.run(torch.Size(shape).numel(), in_several, shape, options), options)


def learned_on_whole_experts(world):
    """omega learned on experts of which each process has whole ones; nothing is sent but the hypergradients."""
    mesh = init_device_mesh("cpu", (world,))
    params = [nn.Parameter(drawn(PACKED[i][0], i)) for i in WHOLE]
    if world > 1:
        placed = zip(params, WHOLE, strict=True)
        params = [nn.Parameter(distribute_tensor(p.data, mesh, [Shard(PACKED[i][2])])) for p, i in placed]
    learner = HyperSGD("omega", start=1)
    opt = HyperOptimizer([{"params": params, "matrix": "batched"}], 1e-2, rule="mada_matrix", omega=0.5, learn=learner)
    for seed in range(4):
        for i, p in enumerate(params):
            g = drawn(p.shape, 100 * seed + i)
            p.grad = distribute_tensor(g, mesh, p.placements) if isinstance(p, DTensor) else g
        opt.step()
    return [getattr(p, "full_tensor", lambda p=p: p)().detach().numpy() for p in params], opt.coefficients()["omega"]


def test_a_coefficient_is_learned_where_shards_have_whole_matrices():
    ((expected, omega),) = group.run(1, learned_on_whole_experts, 1)
    assert omega != 0.5
    for params, read in group.run(2, learned_on_whole_experts, 2):
        assert read == pytest.approx(omega, rel=1e-5)
        for x, y in zip(params, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(x), torch.from_numpy(y), rtol=1e-4, atol=1e-5)
