"""Polar factors of single matrices, and of equal ones in batches: ours beside torch's Muon, paired in one run.

    python -m benchmarks.polar [--shapes 256x256 1024x256 ...] [--batched 64x64 ...] [--numbers 2 8] [--repeats 9]
                               [--device cpu|cuda] [--bf16]

The first table is of one matrix: AutoMuon's four steps, and the five of torch's Muon, in fp32 on a CPU unless --bf16
is said. Operations are those of products, by torch's counter; in GFLOP/s they show how near to the machine's peak the
products are. The second table is of several equal matrices: all at once over one by one, where a plan on CUDA would
take them at once. On a CPU, times are those of the processor; all are medians of the pairs.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor
from torch.optim import _muon
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_time import seconds_of
from mada_optim import matrix_batches
from mada_optim.matrices.polar_factor import polar

SHAPES = ("128x128", "384x128", "128x512", "256x256", "768x256", "256x1024", "512x512", "512x2048", "1024x1024")
SMALL = ("32x32", "64x64", "64x256", "128x128", "128x512", "256x256")


def torchs(x: Tensor) -> Tensor:
    """The iteration of torch's Muon."""
    return _muon._zeropower_via_newtonschulz(x, (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C), 5, 1e-7)


def torchs_in_fp32(x: Tensor) -> Tensor:
    """Likewise, with its rounding to bf16 replaced by a copy."""
    with mock.patch.object(torch.Tensor, "bfloat16", Tensor.clone):
        return torchs(x)


def paired(first: Callable[[], object], second: Callable[[], object], repeats: int, device: str) -> tuple[float, ...]:
    """The median seconds of both, and the median ratio of the first to the second."""
    pairs = [
        [seconds_of(work, torch.device(device), time.process_time) for work in (first, second)]
        for _ in range(repeats + 1)
    ][1:]
    ours, theirs = zip(*pairs, strict=True)
    return statistics.median(ours), statistics.median(theirs), statistics.median(a / b for a, b in pairs)


def operations(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Floating-point operations of the products."""
    with FlopCounterMode(display=False) as counter:
        function(x)
    return float(counter.get_total_flops())


def shape_of(text: str) -> tuple[int, int]:
    """(rows, columns)."""
    rows, columns = map(int, text.split("x"))
    return rows, columns


def print_single(shapes: list[str], repeats: int, device: str, bf16: bool) -> None:
    """A line per shape: times, ratios of times and of operations, and speeds."""
    theirs = torchs if bf16 or device == "cuda" else torchs_in_fp32
    print(
        f"{'rows x columns':>14} {'ours ms':>9} {'torch ms':>9} {'time':>6} {'operations':>10} {'GFLOP/s of both':>16}"
    )
    for text in shapes:
        x = torch.randn(shape_of(text), device=device)
        ours, other, ratio = paired(lambda x=x: polar(x), lambda x=x: theirs(x), repeats, device)
        work, other_work = operations(polar, x), operations(theirs, x)
        speeds = f"{work / ours / 1e9:8.0f} {other_work / other / 1e9:7.0f}"
        print(f"{text:>14} {1e3 * ours:9.2f} {1e3 * other:9.2f} {ratio:6.2f} {work / other_work:10.2f} {speeds:>16}")


def print_batches(shapes: list[str], numbers: list[int], repeats: int, device: str) -> None:
    """A line per shape: the time of all at once over that of one by one, for several numbers of matrices."""
    print(f"{'rows x columns':>14} " + " ".join(f"{number:>6} of them" for number in numbers))
    for text in shapes:
        ratios = []
        for number in numbers:
            xs = [torch.randn(shape_of(text), device=device) for _ in range(number)]
            ratios.append(paired(lambda xs=xs: at_once(xs, 1 << 30), lambda xs=xs: at_once(xs, 1), repeats, device)[2])
        print(f"{text:>14} " + " ".join(f"{ratio:14.2f}" for ratio in ratios))


def at_once(matrices: list[Tensor], number: int) -> list[Tensor]:
    """The polar factors, at most `number` at once."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(matrix_batches, "at_once", return_value=number))
        return matrix_batches.of_all(polar, matrices)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="ROWSxCOLUMNS")
    parser.add_argument(
        "--batched", nargs="*", default=SMALL, metavar="ROWSxCOLUMNS", help="shapes of the second table"
    )
    parser.add_argument("--numbers", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bf16", action="store_true", help="torch's Muon as it is, in bf16, on a CPU too")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads")
    print_single(list(arguments.shapes), arguments.repeats, arguments.device, arguments.bf16)
    print()
    print_batches(list(arguments.batched), arguments.numbers, arguments.repeats, arguments.device)


if __name__ == "__main__":
    with torch.no_grad():
        main()
