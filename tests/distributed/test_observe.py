"""`observe` on several processes: what they find is what a single process would, and the same bits on each.

Catches: hypergradients of one rank's micro-batch alone, shards that are not summed, or summed twice, coefficients that
drift apart, a scope that one rank has seen and another hasn't.
"""

import contextlib

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.distributed import group
from tests.problems import fast, learning

ALL_SEVEN = ("beta1", "beta2", "beta3", "rho", "c", "gamma", "lr")
ROWS, WORDS, WIDTH = 8, 33, 6
STEPS = 6
CLIP = 0.05


class Net(nn.Module):
    """Tied weights of 33 rows, which two processes don't share evenly, and a norm of one element."""

    def __init__(self):
        super().__init__()
        self.table, self.hidden = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, ids):
        return nn.functional.linear(torch.tanh(self.hidden(self.table(ids))) * self.gain, self.table.weight)


def net():
    torch.manual_seed(0)
    return Net()


def optimizer(params, scope="global", **options):
    return learning(params, learn=fast(*ALL_SEVEN, scope=scope), **options)


def backward(model, seed, share=2, mine=slice(None)):
    """Adds the gradient of a share of the loss, on the rows that are mine of a batch that `seed` draws."""
    ids = torch.randint(WORDS, (ROWS, 2), generator=torch.Generator().manual_seed(seed))[mine]
    (nn.functional.cross_entropy(model(ids[:, 0]), ids[:, 1]) / share).backward()


def accumulated(model, opt, mine=slice(None), quiet=contextlib.nullcontext, members=None):
    """Steps on two micro-batches each, of which the first is observed, in a context of its own."""
    for seed in range(STEPS):
        with quiet():
            backward(model, 2 * seed, mine=mine)
            opt.observe(group=members)
        backward(model, 2 * seed + 1, mine=mine)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        opt.step()
        opt.zero_grad()
    return opt.coefficients(), opt.hypergradients()


def held_out(model, opt, mine=slice(None)):
    """Steps whose coefficients learn from another batch."""
    for seed in range(STEPS):
        backward(model, 100 + seed, mine=mine)
        opt.observe()
        opt.zero_grad()
        backward(model, seed, mine=mine)
        opt.step()
        opt.zero_grad()
    return opt.coefficients(), opt.hypergradients()


def rows():
    rank, world = dist.get_rank(), dist.get_world_size()
    return slice(rank * ROWS // world, (rank + 1) * ROWS // world)


def numbers(reading):
    nested = [x if isinstance(x, dict) else {"": x} for x in reading.values()]
    return torch.tensor([x for inner in nested for x in inner.values()], dtype=torch.float64)


def assert_one_process(ranks, alone):
    assert all(rank == ranks[0] for rank in ranks)
    for found, expected in zip(ranks[0], alone, strict=True):
        torch.testing.assert_close(numbers(found), numbers(expected), rtol=1e-4, atol=1e-6)


def with_ddp(scope):
    model = nn.parallel.DistributedDataParallel(net())
    opt = optimizer(model.module.named_parameters(), scope)
    return accumulated(model, opt, rows(), model.no_sync, dist.group.WORLD)


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_a_micro_batch_within_no_sync_of_ddp(scope):
    """Each rank has a gradient of its own there: without `group`, each would learn by itself."""
    model = net()
    alone = accumulated(model, optimizer(model.named_parameters(), scope))
    assert_one_process(group.run(2, with_ddp, scope), alone)


def with_fsdp(work, shape, options):
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")[-len(shape) :])
    model = net()
    fully_shard(model.hidden, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return work(model, optimizer(model.named_parameters(), **options), rows())


@group.needs_fsdp2
@pytest.mark.parametrize("work", [accumulated, held_out])
@pytest.mark.parametrize(
    ("shape", "options"),
    [((2,), {}), ((2,), {"engine": "eager", "scope": "tensor"}), ((2, 2), {"engine": "tiled"})],
    ids=["2", "2, eager, by tensor", "2 replicas of 2, tiled"],
)
def test_shards_of_fsdp2(work, shape, options):
    model = net()
    alone = work(model, optimizer(model.named_parameters(), **options))
    assert_one_process(group.run(torch.Size(shape).numel(), with_fsdp, work, shape, options), alone)


def stopped():
    """Whether a gradient that is not finite in one shard stops the step that learns from another on this rank too."""
    model = net()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    opt = optimizer(model.parameters())
    for seed in range(3):
        backward(model, seed, mine=rows())
        opt.observe()
        before = opt.coefficients(), [p.to_local().clone() for p in model.parameters()]
        if seed == 2 and dist.get_rank() == 1:
            model.hidden.weight.grad.to_local()[0, 0] = float("nan")
        opt.step()
        opt.zero_grad()
    pairs = zip(before[1], model.parameters(), strict=True)
    return opt.coefficients() == before[0] and all(torch.equal(x, p.to_local()) for x, p in pairs)


@group.needs_fsdp2
def test_a_bad_gradient_in_one_shard_stops_the_step_on_all():
    assert group.run(2, stopped) == [True, True]


def apart():
    """Rank 0 has the first and the last tensor, rank 1 those between, in one reduce group."""
    model = net()
    named = list(model.named_parameters())
    mine = named[::3] if dist.get_rank() == 0 else named[1:3]
    return accumulated_by_hand(model, mine, optimizer(mine, reduce_group=dist.group.WORLD))


def accumulated_by_hand(model, mine, opt):
    for seed in range(STEPS):
        backward(model, 2 * seed)
        opt.observe()
        backward(model, 2 * seed + 1)
        opt.step()
        model.zero_grad()
        if dist.is_initialized():
            for name, p in model.named_parameters():
                owner = 0 if name in ("gain", "hidden.bias") else 1
                dist.broadcast(p.data, owner)
    return opt.coefficients(), opt.hypergradients()


def test_parameters_that_processes_share_out():
    model = net()
    named = list(model.named_parameters())
    alone = accumulated_by_hand(model, named, optimizer(named))
    assert_one_process(group.run(2, apart), alone)


def seen_apart():
    """Of a scope per tensor, rank 0 alone has seen the first in the micro-batch: it counts for both ranks."""
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = optimizer([p, q], "tensor")
    for seed in range(4):
        p.grad = q.grad = None
        q.grad = torch.full((3,), 1.0 + seed + dist.get_rank())
        if dist.get_rank() == 0:
            p.grad = torch.full((3,), 2.0 - seed)
        opt.observe(group=dist.group.WORLD)
        p.grad, q.grad = torch.full((3,), 1.0 + seed), torch.full((3,), 1.0 - seed)
        opt.step()
    return opt.coefficients(), opt.hypergradients(), opt.param_groups[0]["applied_steps"].tolist()


def test_a_scope_that_one_rank_has_seen():
    ranks = group.run(2, seen_apart)
    assert ranks[0] == ranks[1]
    assert ranks[0][2] == [4.0, 4.0]
    assert all(ranks[0][1]["0.0"].values())  # of the first tensor


def outside():
    alone = dist.new_group([0])
    p = nn.Parameter(torch.ones(3))
    opt = optimizer([p])
    p.grad = torch.ones(3)
    if dist.get_rank() == 0:
        opt.observe(group=alone)
        return True
    with pytest.raises(ValueError, match=r"group=.*expected a process group that this process is a member of"):
        opt.observe(group=alone)
    return True


def test_a_group_without_this_process_is_refused():
    assert group.run(2, outside) == [True, True]
