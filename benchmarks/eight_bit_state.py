"""State in 8 bits against fp32: validation loss, bytes of state, and time of a step.

    python -m benchmarks.eight_bit_state [--tasks digits_mlp gpt_pydoc] [--seeds 1 2 3] [--share 0.5] [--data-dir D]

From the repository root; the data prepare themselves. The tasks are those of `mada-lab bench`, `--share` of their
steps each; the MLPs are 128 wide, because smaller matrices keep fp32. All runs of a seed have the same initial weights
and the same batches. `nearest` is 8 bits rounded to nearest, `8bit` is the library's stochastic rounding. Printed are
the last validation losses by seed, their median, and the spread, from the lowest to the highest; the bytes of state per
parameter and of each slot; then the time of a step of the optimizer alone, in process time, over that of the eager
engine in fp32: medians and ranges of interleaved repeats.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn

from mada_lab.compute import device
from mada_lab.compute.world import ALONE
from mada_lab.config.keys import RunConfig
from mada_lab.experiments.bench.tasks import TASKS, WARMUP
from mada_lab.optimizers.catalog import build, peak
from mada_lab.tasks import Data
from mada_lab.tasks.choice import choose
from mada_lab.tasks.open_data import open_data
from mada_lab.training import lr_schedule
from mada_optim import MADA, Adam, AutoMuon, HyperOptimizer
from mada_optim.engines import eight_bits
from mada_optim.inspection import MemoryBill

KINDS = {"float32": "float32", "bfloat16": "bfloat16", "8bit": "8bit", "nearest": "8bit"}
OPTIMIZERS = ("adam", "automuon")
CLIP = 1.0
WIDE = {"digits_mlp": {"width": 128}, "digits_noisy": {"width": 128}}
#: Makers of the optimizers whose steps are timed; the first is the baseline.
TIMED: dict[str, Callable[[list[Tensor]], HyperOptimizer]] = {
    "Adam, fp32, eager": lambda p: Adam(p, engine="eager"),
    "Adam, fp32, auto": Adam,
    "Adam, bf16, eager": lambda p: Adam(p, engine="eager", state_dtype=torch.bfloat16),
    "Adam, 8bit": lambda p: Adam(p, state_dtype="8bit"),
    "AutoMuon, fp32, eager": lambda p: AutoMuon(p, engine="eager"),
    "AutoMuon, fp32, auto": AutoMuon,
    "AutoMuon, 8bit": lambda p: AutoMuon(p, state_dtype="8bit"),
}


@contextmanager
def rounding(nearest: bool) -> Iterator[None]:
    """While it lasts, packs to nearest, if asked for."""
    pack = eight_bits.pack
    if nearest:
        eight_bits.pack = lambda x, scale, bits=None: pack(x, scale)
    try:
        yield
    finally:
        eight_bits.pack = pack


def trained(config: RunConfig, data: Data) -> tuple[float, MemoryBill]:
    """The validation loss at the end of a run, and the size of the state."""
    torch.manual_seed(config.seed)
    task = choose(config, data)
    model = task.model()
    optimizer, batches = build(model, config), task.batches(ALONE)
    highest = peak(optimizer)
    for step in range(config.max_iters):
        for group in optimizer.param_groups:
            group["lr"] = lr_schedule.learning_rate(config, highest, step + 1)
        ids, targets = batches.next()
        optimizer.zero_grad()
        model(ids, targets)[1].backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    loss = task.measure(model, task.validation(), device.choose(config), ALONE).loss
    return loss, optimizer.memory()


def losses(config: RunConfig, seeds: Sequence[int], kinds: Sequence[str]) -> str:
    """A line per optimizer and kind of state."""
    data = open_data(config)
    rows = ["optimizer  state        by seed, median, spread; bytes of state per parameter"]
    for name in OPTIMIZERS:
        for kind in kinds:
            found = []
            with rounding(kind == "nearest"):
                for seed in seeds:
                    one = replace(config, seed=seed, optimizer=name, state_dtype=KINDS[kind])
                    loss, bill = trained(one, data)
                    found.append(loss)
            each = "  ".join(f"{x:.4f}" for x in found)
            spread = max(found) - min(found)
            rows.append(
                f"{name:11}{kind:13}{each}   {median(found):.4f}  {spread:.4f}   {bill.total / bill.parameters:.2f}"
            )
    return "\n".join(rows)


def task_of(name: str, share: float, data_dir: str) -> RunConfig:
    """The configuration of a task, with a share of its steps."""
    config = TASKS[name].config
    steps = max(round(share * config.max_iters), 1)
    length = {"max_iters": steps, "lr_decay_iters": None, "warmup_iters": max(round(WARMUP * steps), 1)}
    return replace(config, data_dir=data_dir, **length, **WIDE.get(name, {}))


def matrices(width: int) -> list[Tensor]:
    """The matrices of two transformer blocks of this width, with gradients."""
    torch.manual_seed(0)
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * 2
    params = [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = 0.01 * torch.randn_like(p)
    return params


def bytes_per_slot(width: int) -> str:
    """Bytes per element of each slot, with its scales, of Adam and MADA."""
    lines = []
    for name, make in (("Adam", Adam), ("MADA, six learned", MADA)):
        bill = make(matrices(width), state_dtype="8bit").memory()
        sizes = {key: x + bill.bytes.get(key + eight_bits.SUFFIX, 0) for key, x in bill.bytes.items()}
        whole = {key: x / bill.parameters for key, x in sizes.items() if x >= bill.parameters}
        lines.append(f"{name:24}" + "  ".join(f"{key} {x:.4f}" for key, x in whole.items()))
    return "\n".join(lines)


def step_times(width: int, repeats: int) -> str:
    """The time of a step of each maker over that of the first with the same optimizer."""
    made = {name: make(matrices(width)) for name, make in TIMED.items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    for repeat in range(repeats + 1):
        for name, optimizer in made.items():
            begin = time.process_time()
            optimizer.step()
            if repeat:  # the first compiles, and makes the state
                times[name].append(time.process_time() - begin)
    rows = []
    for name, taken in times.items():
        base = times[f"{name.split(',')[0]}, fp32, eager"]
        ratios = [x / y for x, y in zip(taken, base, strict=True)]
        low, high = min(ratios), max(ratios)
        rows.append(f"{name:24}{1e3 * median(taken):8.1f} ms  {median(ratios):6.2f}  ({low:.2f} to {high:.2f})")
    return "\n".join(rows)


def main() -> None:
    """Prints a table per task, and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=["digits_mlp", "digits_noisy", "gpt_pydoc"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=1.0, help="of the tasks' steps")
    parser.add_argument("--width", type=int, default=192, help="of the blocks whose steps are timed")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--data-dir", default="data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread\n\nbytes per element\n{bytes_per_slot(arguments.width)}")
    print(f"\ntime of a step, over the eager engine's in fp32\n{step_times(arguments.width, arguments.repeats)}")
    for name in arguments.tasks:
        config = task_of(name, arguments.share, arguments.data_dir)
        print(f"\n{name}, {config.max_iters} steps", flush=True)
        print(losses(config, arguments.seeds, arguments.kinds), flush=True)


if __name__ == "__main__":
    main()
