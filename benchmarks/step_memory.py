"""What a step of AutoMuon allocates for a hidden matrix beside its state, at its peak.

    python -m benchmarks.step_memory [--shapes 768x768 3072x768 ...] [--fp32]

By torch's profiler, on the CPU; --fp32 is without products in bf16, as on a CPU that has no instructions for them.
"""

import argparse
from unittest import mock

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mada_optim import AutoMuon
from mada_optim.matrices import polar_factor

SHAPES = ("512x512", "768x768", "2304x768", "3072x768", "768x3072", "1024x4096")


def peak(rows: int, columns: int) -> int:
    """Bytes beyond what is there before a third step."""
    matrix = nn.Parameter(0.02 * torch.randn(rows, columns))
    opt = AutoMuon([{"params": [matrix], "matrix": True}])
    for _ in range(2):
        matrix.grad = torch.randn_like(matrix)
        opt.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        opt.step()
    now = most = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def main() -> None:
    """Prints a line per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="ROWSxCOLUMNS")
    parser.add_argument("--fp32", action="store_true")
    arguments = parser.parse_args()
    has_bf16 = polar_factor.cpu_has_bf16() and not arguments.fp32
    print(f"torch {torch.__version__}, fp32, products in {'bf16' if has_bf16 else 'fp32'}")
    with mock.patch.object(polar_factor, "cpu_has_bf16", return_value=has_bf16):
        for shape in arguments.shapes:
            rows, columns = map(int, shape.split("x"))
            most = peak(rows, columns)
            print(f"{shape:>12} {most / 2**20:8.1f} MiB, {most / (4 * rows * columns):.2f} times the matrix")


if __name__ == "__main__":
    main()
