"""A step of AutoMuon on a GPT that FSDP2 has sharded: what it is worth to share hidden matrices out.

    torchrun --nproc_per_node=2 -m benchmarks.sharded_step [--model 3.2M|26M|124M] [--repeats 15] [--device cpu|cuda]

In each round every way takes a step, all processes together: the matrices shared out, each on one process (the library
as it is); each gathered on every process, the rest the same; gathered on the eager engine, as before there were loops
for shards; and beside them torch's fused AdamW, on shards. Ratios are within rounds, of the slowest process: median
[quartiles]. One thread per process on a CPU.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.optimizer import Optimizer

from benchmarks.step_time import MODELS
from mada_lab.model.gpt import GPT
from mada_optim import AutoMuon, layouts
from mada_optim.sharding import dtensors, exchange

SHARED, GATHERED, EAGER, ADAMW = "shared out", "gathered", "gathered, eager engine", "torch AdamW fused"


def gather(function: exchange.Function, pieces: Sequence[exchange.Piece]) -> None:
    """What `exchange.replace` does, by gathering each matrix on every process."""
    for shard, p, layout in pieces:
        whole = dtensors.like(p, shard).full_tensor()  # type: ignore[attr-defined]
        shard.copy_(dtensors.taken_from(layouts.of_each(function, whole, layout), p))


@contextmanager
def replaced_by(way: Any) -> Iterator[None]:
    """`exchange.replace` is `way` within."""
    own, exchange.replace = exchange.replace, way
    try:
        yield
    finally:
        exchange.replace = own


def sharded(model: str, mesh: DeviceMesh) -> nn.Module:
    """A GPT whose blocks and rest are sharded, with a gradient for each parameter."""
    torch.manual_seed(0)
    gpt = GPT(MODELS[model]).to(mesh.device_type)
    for block in gpt.h:
        fully_shard(block, mesh=mesh)
    fully_shard(gpt, mesh=mesh)
    for p in gpt.parameters():
        p.grad = p.detach() * 1e-2
    return gpt


def optimizers(model: str, mesh: DeviceMesh) -> dict[str, Optimizer]:
    """One for each way, on parameters of its own."""
    nets = {name: sharded(model, mesh) for name in (SHARED, GATHERED, EAGER, ADAMW)}
    ours: dict[str, Optimizer] = {
        name: AutoMuon(nets[name].named_parameters(), engine="eager" if name == EAGER else "auto")
        for name in (SHARED, GATHERED, EAGER)
    }
    return {**ours, ADAMW: torch.optim.AdamW(nets[ADAMW].parameters(), fused=True)}


def seconds_of(optimizer: Optimizer, way: Any, device: torch.device) -> float:
    """How long the slowest process takes."""
    dist.barrier()
    began = time.perf_counter()
    with replaced_by(way):
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    took = torch.tensor(time.perf_counter() - began, dtype=torch.float64, device=device)
    dist.all_reduce(took, op=dist.ReduceOp.MAX)
    return took.item()


def measured(model: str, mesh: DeviceMesh, repeats: int) -> dict[str, list[float]]:
    """Seconds by way, one for each round after two that warm up."""
    device = torch.device(mesh.device_type)
    contenders, seconds = optimizers(model, mesh), dict[str, list[float]]()
    for i in range(repeats + 2):
        for name, optimizer in contenders.items():
            took = seconds_of(optimizer, gather if name == GATHERED else exchange.replace, device)
            if i > 1:
                seconds.setdefault(name, []).append(took)
    return seconds


def main() -> None:
    """Prints the table on the first process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="3.2M")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    mesh = init_device_mesh(options.device, (dist.get_world_size(),))
    seconds = measured(options.model, mesh, options.repeats)
    if dist.get_rank() == 0:
        print(f"{options.model}, {dist.get_world_size()} processes; ms, and over the first\n")
        for name, times in seconds.items():
            ratios = [x / first for x, first in zip(times, seconds[SHARED], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"{name:24s} {statistics.median(times) * 1e3:8.1f}   {middle:.2f} [{low:.2f}, {high:.2f}]")
    dist.barrier()  # nobody leaves while another still talks
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
