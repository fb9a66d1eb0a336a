"""A step of AutoMuon on two processes with equal gradients, as under DDP: with `share_matrices`, and without.

    python -m benchmarks.shared_matrices [--model 0.8M|3.2M|26M|124M] [--repeats 15] [--processes 2]

Starts the processes itself, on a CPU over gloo, each with one thread. Both optimizers of a process have the weights and
gradients of a GPT. In each round both take a step, in turn, all processes together. Medians and quartiles are printed:
the time of the slowest process by the clock, and the processor time of the busiest, which other programs disturb
less; the ratios are within rounds. Bytes are those that a process receives, counted in one step. The weights are
compared at the end, bit by bit.
"""

import argparse
import tempfile
import time
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.optim.optimizer import Optimizer

from benchmarks.step_time import MODELS, quartiles
from mada_lab.model.gpt import GPT
from mada_optim import AutoMuon, LearnedLR
from mada_optim.sharding.replicated import Sharing

ALONE, SHARED = "each all matrices", "share_matrices"


class Measured(NamedTuple):
    """Milliseconds of each round by optimizer, by the clock and of the processor; bytes; whether weights are equal."""

    clock: dict[str, list[float]]
    processor: dict[str, list[float]]
    received: int
    equal: bool


def optimizers(model: str) -> dict[str, Optimizer]:
    """An optimizer for each way, on parameters of its own, with gradients of the size that training has."""
    made: dict[str, Optimizer] = {}
    for name, group in ((ALONE, None), (SHARED, dist.group.WORLD)):
        torch.manual_seed(0)
        gpt = GPT(MODELS[model])
        for p in gpt.parameters():
            p.grad = 1e-2 * torch.randn_like(p)
        made[name] = AutoMuon(gpt.named_parameters(), learn=LearnedLR(start=0), share_matrices=group)
    return made


def largest(seconds: float) -> float:
    """The largest of all processes, in milliseconds."""
    took = torch.tensor(1e3 * seconds, dtype=torch.float64)
    dist.all_reduce(took, op=dist.ReduceOp.MAX)
    return took.item()


def bytes_received(optimizer: Optimizer) -> int:
    """The bytes of the updates that this process gets from the others in a step."""
    counted, original = [0], Sharing.send

    def send(self: Sharing, parts: list[torch.Tensor]) -> None:
        counted[0] += sum(x.numel() * x.element_size() for r, x in enumerate(parts) if r != self.rank)
        original(self, parts)

    Sharing.send = send  # type: ignore[method-assign, assignment]
    optimizer.step()
    Sharing.send = original  # type: ignore[method-assign]
    return counted[0]


def measured(model: str, repeats: int) -> Measured:
    """Times on this process's group, after three steps that warm up."""
    contenders = optimizers(model)
    clock: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(repeats + 3):
        for name, optimizer in contenders.items():
            dist.barrier()
            began, used = time.perf_counter(), time.process_time()
            optimizer.step()
            took = largest(time.perf_counter() - began), largest(time.process_time() - used)
            if i > 2:
                clock[name].append(took[0])
                processor[name].append(took[1])
    received = bytes_received(contenders[SHARED])
    contenders[ALONE].step()
    weights = [[p for group in x.param_groups for p in group["params"]] for x in contenders.values()]
    return Measured(clock, processor, received, all(map(torch.equal, *weights)))


def compared(title: str, times: dict[str, list[float]]) -> str:
    """A line for each way, and the ratio of the two."""
    ratios = [x / y for x, y in zip(times[SHARED], times[ALONE], strict=True)]
    rows = [(name, "ms", quartiles(each), 1) for name, each in times.items()]
    rows.append(("ratio", "", quartiles(ratios), 3))
    text = "".join(f"  {n:18s} {m:9.{d}f} {u:2s} [{lo:.{d}f}, {hi:.{d}f}]\n" for n, u, (lo, m, hi), d in rows)
    return f"{title}\n{text}"


def work(rank: int, store: str, options: argparse.Namespace) -> None:
    """What each process does; the first one prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.processes)
    result = measured(options.model, options.repeats)
    if rank == 0:
        print(f"{options.model}, {options.processes} processes, {options.repeats} rounds; medians [quartiles]")
        print(compared("by the clock, the slowest process", result.clock), end="")
        print(compared("processor time, the busiest process", result.processor), end="")
        print(f"received by a process in a step: {result.received:,} bytes")
        print(f"weights equal bit by bit: {result.equal}")
    dist.barrier()  # nobody leaves while another still talks


def main() -> None:
    """Starts the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="3.2M")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (f"{folder}/store", options), options.processes)


if __name__ == "__main__":
    main()
