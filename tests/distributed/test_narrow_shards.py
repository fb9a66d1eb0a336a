"""FSDP2 with state in 8 bits, and with state on the CPU.

Catches: blocks that change when a checkpoint is made, a checkpoint that another number of processes can't read, an
optimizer that can't step where FSDP2 keeps shards and gradients on the CPU.
"""

import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mada_optim import AutoMuon
from tests.distributed import group


def made(policy=None, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(96, 95), nn.Tanh(), nn.Linear(95, 96))
    fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)), offload_policy=policy or OffloadPolicy())
    return net, AutoMuon(net.named_parameters(), **options)


def train(net, opt, seeds):
    for seed in seeds:
        x = torch.randn(16, 96, generator=torch.Generator().manual_seed(seed))
        opt.zero_grad()
        (net(x) - x.roll(1, 1)).square().mean().backward()
        opt.step()


def local(tree):
    return [x.to_local() if isinstance(x, DTensor) else x for state in tree.values() for x in state.values()]


def slots(net, opt):
    found = [x for p in net.parameters() for x in opt.slots(p).values() if x.ndim]
    return [x.full_tensor().norm().item() for x in found]


def loaded(folder):
    net, opt = made(state_dtype="8bit")
    state = get_optimizer_state_dict(net, opt)
    dcp.load(state, checkpoint_id=folder)
    set_optimizer_state_dict(net, opt, state)
    return net, opt


def saved_and_resumed(folder):
    net, opt = made(state_dtype="8bit")
    train(net, opt, range(3))
    dcp.save(get_optimizer_state_dict(net, opt), checkpoint_id=folder)
    saved = slots(net, opt)
    other, resumed = loaded(folder)
    other.load_state_dict(net.state_dict())
    packed = any(x.dtype is torch.uint8 for x in local(resumed.state))
    for each, optimizer in ((net, opt), (other, resumed)):
        train(each, optimizer, range(3, 5))
    ours, theirs = local(opt.state), local(resumed.state)
    return packed and len(ours) == len(theirs) and all(map(torch.equal, ours, theirs)), saved


def on_another_number(folder):
    return slots(*loaded(folder))


def offloaded(_):
    losses = []
    for policy in (None, CPUOffloadPolicy(pin_memory=False)):
        net, opt = made(policy)
        train(net, opt, range(4))
        losses.append([p.full_tensor().detach() for p in net.parameters()])
    return all(map(torch.equal, *losses)), opt.engine


@group.needs_fsdp2
def test_shards_in_8_bits_are_saved_and_go_on_bit_for_bit_and_load_on_another_number_of_processes():
    with tempfile.TemporaryDirectory() as folder:
        (same, saved), (same_there, _) = group.run(2, saved_and_resumed, folder)
        (alone,) = group.run(1, on_another_number, folder)
    assert same
    assert same_there
    assert alone == pytest.approx(saved, rel=0.02)


@group.needs_fsdp2
def test_with_fsdps_offload_policy_it_steps_on_the_cpu_to_the_same_bits():
    (same, engine), _ = group.run(2, offloaded, None)
    assert same
    assert engine == "cpu"
