"""Runs trained side by side against the same runs one by one: seconds of a step of a run, on the bench's tasks.

    python -m benchmarks.side_by_side --device cuda                          needs what `mada-lab data prepare` leaves
    python -m benchmarks.side_by_side --tasks digits_mlp --runs 4 16 --repeats 5

In each round the runs of a task are trained one by one, then side by side; ratios are within rounds: median [least,
most]. One thread, as in the bench. Evaluations are left out.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from mada_lab.config.keys import RunConfig
from mada_lab.errors import DataError
from mada_lab.experiments.bench.tasks import TASKS, located
from mada_lab.tasks import Data
from mada_lab.tasks.open_data import open_data
from mada_lab.training.stacked import Member, train_together
from mada_lab.training.trainer import train

TASK_NAMES = ("digits_mlp", "cifar_cnn", "gpt_pydoc", "gpt_shakespeare_large")
OPTIMIZERS = ("adamw", "automuon")


class Steps:
    """Listens for the first step and the last."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self, done: int) -> None:
        """Notes the time."""
        self.times.append(time.perf_counter())

    def row(self, row: dict[str, object]) -> None:
        """Does nothing."""

    @property
    def seconds(self) -> float:
        """From the end of the first step, which compiles and allocates, to that of the last."""
        return self.times[-1] - self.times[0]


def one_by_one(configs: list[RunConfig], data: Data) -> float:
    """Seconds that all of them take."""
    listeners = [Steps() for _ in configs]
    for config, listen in zip(configs, listeners, strict=True):
        train(config, data, listen)
    return sum(listen.seconds for listen in listeners)


def side_by_side(configs: list[RunConfig], data: Data) -> float:
    """The same, together."""
    members = [Member(config, data, Steps()) for config in configs]
    train_together(members)
    for member in members:
        if member.error is not None:
            raise member.error
    return max(m.listen.times[-1] for m in members) - max(m.listen.times[0] for m in members)  # type: ignore[attr-defined]


def measure(base: RunConfig, data: Data, runs: int, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a step of a run, one by one and side by side, of each round."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for how, times in zip((one_by_one, side_by_side), found, strict=True):
            times.append(1e3 * in_a_folder(how, base, data, runs) / runs / (base.max_iters - 1))
    return found


def in_a_folder(how: Callable[[list[RunConfig], Data], float], base: RunConfig, data: Data, runs: int) -> float:
    """Trains `runs` seeds of `base`."""
    with tempfile.TemporaryDirectory() as folder:
        return how([replace(base, seed=i, out_dir=str(Path(folder, str(i)))) for i in range(runs)], data)


def main() -> None:
    """Prints a row for each task, optimizer and number of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASK_NAMES, choices=tuple(TASKS))
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS)
    parser.add_argument("--runs", nargs="+", type=int, default=(4, 16))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-dir", default="data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| task | optimizer | runs | one by one, ms a step | side by side | ratio |\n|---|---|---|---|---|---|")
    for name in given.tasks:
        base = located(TASKS[name], given.data_dir, given.device).config
        quiet = {
            "eval_interval": given.steps + 1,
            "log_interval": given.steps + 1,
            "checkpoint_interval": given.steps + 1,
        }
        base = replace(base, max_iters=given.steps, digest_interval=given.steps + 1, **quiet)
        try:
            data = open_data(base)
        except DataError as error:
            print(f"| {name} | left out: {error} | | | | |")
            continue
        for optimizer in given.optimizers:
            for runs in given.runs:
                alone, beside = measure(replace(base, optimizer=optimizer), data, runs, given.repeats)
                ratios = sorted(y / x for x, y in zip(alone, beside, strict=True))
                spread = f"{median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
                print(
                    f"| {name} | {optimizer} | {runs} | {median(alone):.2f} | {median(beside):.2f} | {spread} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
