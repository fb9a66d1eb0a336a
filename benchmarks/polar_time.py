"""Polar factors of equal matrices in batches, paired with the same one by one.

    python -m benchmarks.polar_time [--device cpu|cuda] [--repeats 15] [--tiny] [--json FILE]

The shapes are those of the hidden matrices of GPT-2 small and of a small GPT. Each round times both in turn; printed
are medians with quartiles, in milliseconds, and the ratio within a round.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.step_time import quartiles, seconds_of
from mada_optim.matrices.polar_factor import polar

SHAPES = ((24, 128, 128), (24, 384, 384), (12, 768, 768), (12, 2304, 768), (12, 3072, 768))
TINY = ((4, 32, 32),)


def timed(shape: tuple[int, ...], device: torch.device, repeats: int) -> dict[str, Any]:
    """The row of one stack of matrices."""
    stack = torch.randn(shape, device=device)
    together, single = list[float](), list[float]()
    for _ in range(repeats + 2):
        together.append(1e3 * seconds_of(lambda: polar(stack), device))
        single.append(1e3 * seconds_of(lambda: [polar(x) for x in stack], device))
    together, single = together[2:], single[2:]  # two rounds to warm up
    ratios = [a / b for a, b in zip(together, single, strict=True)]
    name = " x ".join(map(str, shape))
    return {
        "matrices": name,
        "one by one, ms": quartiles(single),
        "batched, ms": quartiles(together),
        "batched / one by one": quartiles(ratios),
    }


def main() -> None:
    """Prints a row per stack of matrices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path, help="writes the rows to this file")
    arguments = parser.parse_args()
    rows = []
    for shape in TINY if arguments.tiny else SHAPES:
        rows.append(timed(shape, torch.device(arguments.device), arguments.repeats))
        print({key: x if isinstance(x, str) else [round(y, 3) for y in x] for key, x in rows[-1].items()})
        if arguments.json:
            arguments.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
