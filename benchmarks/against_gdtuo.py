"""A training step with learned betas and lr: ours, and the package gradient-descent-the-ultimate-optimizer (gdtuo).

    python benchmarks/against_gdtuo.py [--repeats 10]

GPT of 10.7M parameters, batch 8 x 256 tokens, random ids, CPU. Times are paired in one process, in turn; the peak of
memory is that of a process of its own. gdtuo is its Adam under its SGD, which learns beta1, beta2 and lr through a
graph that spans two steps.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import torch
from gradient_descent_the_ultimate_optimizer import gdtuo

from benchmarks.training_step import CONFIGS
from mada_lab.model.gpt import GPT
from mada_optim import MADA, HyperAdam, HyperSGD

Step = Callable[[torch.Tensor], None]
BASELINE = "AdamW fused"


def model() -> GPT:
    torch.manual_seed(0)
    return GPT(CONFIGS["10.7M"])


def ordinary(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> Step:
    """A step as one writes it with any torch optimizer."""
    gpt = model()
    optimizer = make(list(gpt.parameters()))

    def step(ids: torch.Tensor) -> None:
        _, loss = gpt(ids, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def graph() -> Step:
    """A step by gdtuo's protocol."""
    wrapped = gdtuo.ModuleWrapper(model(), optimizer=gdtuo.Adam(alpha=1e-3, optimizer=gdtuo.SGD(1e-5)))
    wrapped.initialize()

    def step(ids: torch.Tensor) -> None:
        wrapped.begin()
        _, loss = wrapped.forward(ids, ids)
        wrapped.zero_grad()
        loss.backward(create_graph=True)
        wrapped.step()

    return step


CONTENDERS: dict[str, Callable[[], Step]] = {
    BASELINE: lambda: ordinary(lambda p: torch.optim.AdamW(p, fused=True)),
    "Adam, betas and lr learned": lambda: ordinary(
        lambda p: HyperAdam(p, learn=HyperSGD("beta1", "beta2", "lr", lr=1e-5, start=0))
    ),
    "MADA, all six learned": lambda: ordinary(lambda p: MADA(p, learn=HyperSGD("all", start=0))),
    "gdtuo, Adam / SGD": graph,
}


def batch() -> torch.Tensor:
    return torch.randint(CONFIGS["10.7M"].vocab_size, (8, 256), generator=torch.Generator().manual_seed(0))


def peak_memory(name: str) -> float:
    """MiB at most resident in a process that makes 5 steps."""
    command = [sys.executable, "-m", "benchmarks.against_gdtuo", "--peak", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str) -> None:
    """In that process."""
    step, ids = CONTENDERS[name](), batch()
    for _ in range(5):
        step(ids)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def seconds(repeats: int) -> dict[str, list[float]]:
    """Of each contender's steps, in paired rounds after two to warm up."""
    steps = {name: make() for name, make in CONTENDERS.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    ids = batch()
    for round_ in range(repeats + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step(ids)
            if round_ >= 2:
                taken[name].append(time.perf_counter() - began)
    return taken


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--peak", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*backward.*with create_graph=True")
    if arguments.peak:
        print_peak(arguments.peak)
        return

    peaks = {name: peak_memory(name) for name in CONTENDERS}
    taken = seconds(arguments.repeats)
    print(f"{'':28}{'ms per step':>12}{'x AdamW [quartiles]':>26}{'MiB beyond AdamW':>18}")
    for name in CONTENDERS:
        ratios = [a / b for a, b in zip(taken[name], taken[BASELINE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        milliseconds, extra = 1e3 * statistics.median(taken[name]), peaks[name] - peaks[BASELINE]
        print(f"{name:28}{milliseconds:12.1f}{f'{middle:.3f} [{low:.3f}, {high:.3f}]':>26}{extra:18.1f}")


if __name__ == "__main__":
    main()
