"""Optimizer step time and state, ours beside torch's AdamW, paired in one run.

    python benchmarks/step_time.py [--model 0.8M|3.2M|26M|124M|200x1000] [--repeats 15] [--device cpu|cuda]
                                   [--only NAME ...] [--markdown] [--json FILE]
                                   124M takes 4 GB and more for each
    python benchmarks/step_time.py --process-time    the processor's time of the process, where others use the machine
    python benchmarks/step_time.py --device cuda --graph     steps captured in a CUDA graph
    python benchmarks/step_time.py --packaged   as if the compiler of mada-optim[compiler] were the only one
    python benchmarks/step_time.py --growth     from 1e5 to 1e8 parameters: nanoseconds per parameter

Every round times each optimizer once, in turn, so that what disturbs the machine disturbs them alike; ratios are taken
within a round. Printed are medians with quartiles. Bytes are counted from the tensors in the state. On CUDA the device
itself takes the time, and what a step must move, by the state it keeps, is set against what a copy moves.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.optim.optimizer import Optimizer

import mada_optim
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.optimizers.baselines import Muon, muon, muon_groups
from mada_optim import HyperSGD, LearnedLR
from mada_optim.engines.cpp import build

Named = list[tuple[str, torch.nn.Parameter]]
Make = Callable[[Named], Optimizer]
Row = dict[str, Any]

MODELS = {
    "0.8M": GPTConfig(block_size=64, vocab_size=103, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False),
    "3.2M": GPTConfig(block_size=256, vocab_size=65, n_layer=4, n_head=4, n_embd=256, dropout=0.0, bias=False),
    "26M": GPTConfig(block_size=512, vocab_size=50257, n_layer=8, n_head=8, n_embd=320, dropout=0.0, bias=False),
    "124M": GPTConfig(bias=False),
}
SMALL = "200x1000"  # tensors of a ResNet's kind: what a step costs beside its bytes
STIRRED = 16 << 20  # fp32 elements: more than the caches hold
COPIED = 64 << 20  # likewise, of which a copy's bandwidth is taken
BASELINE = "torch AdamW fused"
MUON_IN_FP32 = "torch Muon in fp32 and AdamW fused"
ALL = HyperSGD("all", start=0)
EVERYTHING = HyperSGD("beta1", "beta2", "beta3", "rho", "c", "gamma", "lr", start=0)


class MuonInFp32(Muon):
    """torch's Muon, whose products are in fp32 instead of bf16, and torch's AdamW."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step in which the rounding to bf16 is a copy."""
        with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
            super().step(closure)


OPTIMIZERS: dict[str, Make] = {
    BASELINE: lambda p: torch.optim.AdamW(p, fused=True, capturable=p[0][1].is_cuda),
    "torch AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "torch Muon and AdamW fused": lambda p: muon(muon_groups(p), {"lr": 1e-3, "fused": True}),
    MUON_IN_FP32: lambda p: MuonInFp32(muon_groups(p), {"lr": 1e-3, "fused": True}),
    "MADA, all six learned": lambda p: mada_optim.MADA(p, learn=ALL),
    "MADA, eager engine": lambda p: mada_optim.MADA(p, learn=ALL, engine="eager"),
    "MADA, tiled engine": lambda p: mada_optim.MADA(p, learn=ALL, engine="tiled"),
    "MADA, six and lr learned": lambda p: mada_optim.MADA(p, learn=EVERYTHING),
    "MADA, six per tensor": lambda p: mada_optim.MADA(p, learn=HyperSGD("all", start=0, scope="tensor")),
    "MADA, bf16 state": lambda p: mada_optim.MADA(p, learn=ALL, state_dtype=torch.bfloat16),
    "AutoMuon": lambda p: mada_optim.AutoMuon(p, learn=LearnedLR(start=0)),
    "AutoMuon, nu 1": lambda p: mada_optim.AutoMuon(p, nu=1.0, learn=LearnedLR(start=0)),
    "AutoAdam": lambda p: mada_optim.AutoAdam(p, learn=LearnedLR(start=0)),
    "MADA, none learned": lambda p: mada_optim.MADA(p, learn=()),
    "HyperAdam": lambda p: mada_optim.HyperAdam(p, learn=ALL),
    "Adam": lambda p: mada_optim.Adam(p),
    "HyperAdam, tiled engine": lambda p: mada_optim.HyperAdam(p, learn=ALL, engine="tiled"),
    "Adam, tiled engine": lambda p: mada_optim.Adam(p, engine="tiled"),
    "Lion": lambda p: mada_optim.Lion(p),
    "SGD, momentum": lambda p: mada_optim.SGD(p, momentum=0.9),
}
GROWTH = (10**5, 10**6, 10**7, 10**8)


@dataclass
class Contender:
    """An optimizer with parameters of its own, and the seconds of its steps."""

    optimizer: Optimizer
    parameters: list[torch.nn.Parameter]
    seconds: list[float]

    graph: torch.cuda.CUDAGraph | None = None

    def step(self, stirred: torch.Tensor, clock: Callable[[], float] = time.perf_counter) -> None:
        """One timed step on the gradients as they are.

        As a backward pass would, `stirred` leaves other numbers in the caches, and the threads awake, for each alike.
        """
        stirred.add_(1.0)
        work = self.optimizer.step if self.graph is None else self.graph.replay
        self.seconds.append(seconds_of(work, stirred.device, clock))

    def capture(self) -> None:
        """From here on, a step is a replay of one that was captured."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.optimizer.step()

    def bytes_moved_per_parameter(self) -> float:
        """What a step reads and writes at least, in fp32: docs/results/performance.md counts it."""
        state = self.state_bytes_per_parameter()
        if not isinstance(self.optimizer, mada_optim.HyperOptimizer):
            return 12 + 2 * state  # reads weights, gradients and state, writes all but gradients
        return 16 + (3 if self.optimizer.learned else 2) * state  # gradients twice; for hypergradients state too

    def state_bytes_per_parameter(self) -> float:
        """Bytes of all tensors in the state, over the number of parameters."""
        tensors = [x for state in self.optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
        return sum(x.numel() * x.element_size() for x in tensors) / sum(p.numel() for p in self.parameters)


def seconds_of(
    work: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """How long `work` takes by `clock`; on CUDA by the device's own clock, from an idle device on."""
    if device.type != "cuda":
        began = clock()
        work()
        return clock() - began
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def copy_bandwidth(device: torch.device, repeats: int) -> float:
    """Bytes per second that a copy reads and writes."""
    x = torch.zeros(COPIED, device=device)
    y = torch.empty_like(x)
    times = [seconds_of(lambda: y.copy_(x), device) for _ in range(repeats + 1)][1:]
    return 2 * x.numel() * x.element_size() / statistics.median(times)


def parameters_of(model: str, device: str) -> Named:
    """The tensors of a GPT, or 200 tensors of 1,000 elements, with their names."""
    torch.manual_seed(0)
    if model.isdecimal():  # that many elements, in ten tensors
        return [(str(i), torch.nn.Parameter(torch.randn(int(model) // 10, device=device))) for i in range(10)]
    if model == SMALL:
        return [(str(i), torch.nn.Parameter(torch.randn(1000, device=device))) for i in range(200)]
    return list(GPT(MODELS[model]).to(device).named_parameters())


def contender(make: Make, model: str, device: str) -> Contender:
    """A fresh optimizer with gradients of the size that training has, warmed up."""
    named = parameters_of(model, device)
    for _, p in named:
        p.grad = 1e-2 * torch.randn_like(p)
    optimizer = make(named)
    for _ in range(3):
        optimizer.step()
    return Contender(optimizer, [p for _, p in named], [])


def print_growth(repeats: int, device: str) -> None:
    """MADA's time per parameter, by the number of parameters."""
    stirred = torch.zeros(STIRRED, device=device)
    for size in GROWTH:
        each = contender(OPTIMIZERS["MADA, all six learned"], str(size), device)
        for _ in range(repeats):
            each.step(stirred)
        low, middle, high = quartiles([1e9 * s / size for s in each.seconds])
        print(f"{size:12,} parameters {middle:8.2f} ns/parameter [{low:.2f}, {high:.2f}]")


def quartiles(numbers: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return low, middle, high


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=(*MODELS, SMALL), default="3.2M")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=OPTIMIZERS, metavar="NAME", help="these, beside the baseline")
    parser.add_argument("--graph", action="store_true", help="steps captured in a CUDA graph")
    parser.add_argument("--markdown", action="store_true", help="a table in Markdown")
    parser.add_argument("--json", type=Path, help="writes the rows to this file")
    parser.add_argument("--packaged", action="store_true", help="loops from the compiler in the package ziglang")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--process-time", action="store_true", help="the processor's time, not the wall's")
    arguments = parser.parse_args()
    if arguments.packaged:
        os.environ.pop("CXX", None)
        build.COMPILERS = ()
    if arguments.growth:
        print_growth(arguments.repeats, arguments.device)
        return

    names = arguments.only or available(arguments.device, arguments.model)
    chosen = {name: OPTIMIZERS[name] for name in (BASELINE, *names)}
    contenders = {name: contender(make, arguments.model, arguments.device) for name, make in chosen.items()}
    for each in contenders.values() if arguments.graph else ():
        each.capture()
    stirred = torch.zeros(STIRRED, device=arguments.device)
    for _ in range(arguments.repeats):
        for each in contenders.values():
            each.step(stirred, time.process_time if arguments.process_time else time.perf_counter)

    sizes = [p.numel() for p in contenders[BASELINE].parameters]
    device = torch.cuda.get_device_name() if stirred.is_cuda else f"cpu, {torch.get_num_threads()} threads"
    print(f"{sum(sizes):,} parameters in {len(sizes)} tensors, fp32{', in a CUDA graph' * arguments.graph}")
    print(f"torch {torch.__version__}, {device}")
    print(f"{arguments.repeats} paired rounds; median [quartiles]\n")
    bandwidth = copy_bandwidth(stirred.device, arguments.repeats) if stirred.is_cuda else None
    rows = [row(name, each, contenders[BASELINE], sum(sizes), bandwidth) for name, each in contenders.items()]
    print_table(rows, arguments.markdown)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows))


def available(device: str, model: str) -> list[str]:
    """The optimizers that are of interest on a device, and have something to do on a model's tensors."""
    without = ("tiled engine",) * (device == "cuda") + ("Muon and AdamW fused", MUON_IN_FP32) * (model == SMALL)
    return [name for name in OPTIMIZERS if not name.endswith(without)]


def print_table(rows: list[Row], markdown: bool) -> None:
    """A line for each row."""
    widths = (34, 8, 24, 24, 14, 14)
    for i, columns in enumerate([list(rows[0]), *([shown(key, x) for key, x in row.items()] for row in rows)]):
        cells = list(zip(columns, widths, strict=False))
        if markdown:
            print("|" + "|".join(f" {text} " for text, _ in cells) + "|")
            print("|" + "---|" * len(cells) if i == 0 else "", end="\n" if i == 0 else "")
        else:
            first, *rest = cells
            print(" ".join([f"{first[0]:{first[1]}}", *(f"{text:>{width}}" for text, width in rest)]))


def shown(key: str, x: Any) -> str:
    """A value as the table has it: three numbers are quartiles."""
    if isinstance(x, tuple):
        low, middle, high = x
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"
    return x if isinstance(x, str) else f"{x:.0%}" if key == "of bandwidth" else f"{x:.2f}"


def row(name: str, each: Contender, baseline: Contender, size: int, bandwidth: float | None) -> Row:
    """The columns of one optimizer; with a copy's `bandwidth`, the part of it that a step reaches."""
    ns = quartiles([1e9 * s / size for s in each.seconds])
    columns: Row = {
        "optimizer": name,
        "engine": getattr(each.optimizer, "engine", "torch"),
        "ns/parameter": ns,
        "x fused AdamW": quartiles([ours / base for ours, base in zip(each.seconds, baseline.seconds, strict=True)]),
        "state B/param": each.state_bytes_per_parameter(),
    }
    reached = {"of bandwidth": each.bytes_moved_per_parameter() / ns[1] * 1e9 / bandwidth} if bandwidth else {}
    return {**columns, **reached}


if __name__ == "__main__":
    main()
