"""Accelerate on two processes: DDP with accumulation, and FSDP2, which replaces the optimizer's parameters by shards.

Catches: an optimizer that goes on with the parameters from before the sharding, and processes that learn different
rates. Accelerate offers FSDP2 with GPUs alone; the test sets its state, and it then takes the same way on CPUs.
"""

import os
import tempfile

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from mada_optim import AutoMuon, LearnedLR, param_groups
from tests.distributed import group

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'mada-optim[hf]'")

STEPS, ROWS, WORDS = 4, 8, 32


def net():
    torch.manual_seed(0)
    layers = [nn.Embedding(WORDS, 16), nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 16), nn.Linear(16, WORDS)]
    return nn.Sequential(*layers)


def made(model):
    opt = AutoMuon(param_groups(model), learn=LearnedLR(start=1))
    return opt, torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1 / (1 + t))


def batch(step):
    return torch.randint(WORDS, (ROWS, 2), generator=torch.Generator().manual_seed(step))


def accelerator(sharded):
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    rank, world = str(dist.get_rank()), str(dist.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world, MASTER_ADDR="127.0.0.1")
    of = Accelerator(cpu=True, gradient_accumulation_steps=2)
    if sharded:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=500, state_dict_type="SHARDED_STATE_DICT"
        )
        for state in (PartialState(), of.state):  # all instances share their attributes
            state.distributed_type = DistributedType.FSDP
        of.state.fsdp_plugin = plugin
    return of


def train(of, model, opt, scheduler, steps):
    """Steps of two micro-batches; each process has half of the rows of each."""
    rank, half = of.process_index, ROWS // 2
    for step in steps:
        for micro in (0, 1):
            ids = batch(2 * step + micro)[rank * half : (rank + 1) * half]
            with of.accumulate(model):
                of.backward(nn.functional.cross_entropy(model(ids[:, 0]), ids[:, 1]))
                opt.step()
                scheduler.step()
                opt.zero_grad()


def accelerated(sharded):
    """The weights and coefficients after `STEPS` steps, and again from a checkpoint of half of them."""
    of, model = accelerator(sharded), net()
    model, opt, scheduler = of.prepare(model, *made(model))
    shards = sum(isinstance(p, DTensor) for p in opt.param_groups[0]["params"])
    train(of, model, opt, scheduler, range(STEPS // 2))
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    of.save_state(folder[0])
    train(of, model, opt, scheduler, range(STEPS // 2, STEPS))
    ends = [(weights(model), learned(opt.optimizer))]
    of.load_state(folder[0])
    train(of, model, opt, scheduler, range(STEPS // 2, STEPS))
    ends.append((weights(model), learned(opt.optimizer)))
    return shards, ends


def learned(opt):
    """The applied rate and its last hypergradient, which is a sum over all shards."""
    return {"lr": opt.coefficients()["lr"], "hypergradient": opt.hypergradients()["lr"]}


def weights(model):
    return [(p.full_tensor() if isinstance(p, DTensor) else p).tolist() for p in model.parameters()]


def alone():
    """The same steps in a plain loop, on whole batches."""
    model = net()
    opt, scheduler = made(model)
    for step in range(STEPS):
        for micro in (0, 1):
            ids = batch(2 * step + micro)
            (nn.functional.cross_entropy(model(ids[:, 0]), ids[:, 1]) / 2).backward()
        opt.step()
        for _ in range(2):  # Accelerate steps a scheduler once for each process
            scheduler.step()
        opt.zero_grad()
    return weights(model), learned(opt)


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_accelerate_gives_the_run_of_a_plain_loop_and_resumes_it(sharded):
    of_plain_loop, rate = alone()
    assert rate["hypergradient"] != 0.0
    for shards, (whole, resumed) in group.run(2, accelerated, sharded):
        assert shards == (2 if sharded else 0)
        torch.testing.assert_close(list(map(torch.tensor, whole[0])), list(map(torch.tensor, of_plain_loop)))
        assert whole[1] == pytest.approx(rate, rel=1e-4)
        assert resumed == whole
