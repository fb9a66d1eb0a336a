"""AutoMuon goes on from trained weights, on the data they were trained on: a learned lr beside the same lr left alone.

    python -m benchmarks.continued [--tasks digits text] [--seeds 1 2 3] [--steps 300] [--data-dir D]

From the repository root; the data prepare themselves. `digits`: an MLP on scikit-learn's digits, of whose training
labels a fifth are drawn anew, 600 steps of AdamW. `text`: a GPT of 0.1M parameters on pydoc by characters, 2,000 steps
of AutoMuon. Both end at an lr of 0. A fresh AutoMuon then goes on at a constant lr, from each of three rates: left
there, learned as by default, and learned without a ceiling (`rise=0`, as it was before there was one). All runs of a
seed have the same weights and the same batches. Printed is the last validation loss by seed, its mean, and that over
the best of the rates that were left alone.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from mada_lab.compute import device
from mada_lab.compute.world import ALONE
from mada_lab.config.keys import RunConfig
from mada_lab.experiments.bench.tasks import TASKS
from mada_lab.optimizers.catalog import build, peak
from mada_lab.tasks import Batches, Data, Task
from mada_lab.tasks.choice import choose
from mada_lab.tasks.open_data import open_data
from mada_lab.training import lr_schedule
from mada_optim import AutoMuon, LearnedLR

RATES = (1e-5, 1e-4, 1e-3)
KINDS = {"left": LearnedLR(rate=0.0), "learned": LearnedLR(), "no ceiling": LearnedLR(rise=0.0)}
ENDED = {"min_lr": 0.0}
TRAINED: dict[str, RunConfig] = {
    "digits": replace(TASKS["digits_noisy"].config, optimizer="adamw", learning_rate=3e-3, batch_size=64, **ENDED),
    "text": replace(
        TASKS["gpt_pydoc"].config, optimizer="automuon", learning_rate=1e-3, max_iters=2000, warmup_iters=100, **ENDED
    ),
}
CLIP = 1.0
Losses = dict[tuple[str, float], list[float]]


@dataclass
class Run:
    """A network, its optimizer, and the batches it sees."""

    task: Task
    model: nn.Module
    optimizer: Optimizer
    batches: Batches

    def step(self) -> None:
        """One step of the optimizer."""
        ids, targets = self.batches.next()
        self.optimizer.zero_grad()
        self.model(ids, targets)[1].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()

    def validation_loss(self) -> float:
        """On the validation set, the same for all."""
        config = self.task.config
        return self.task.measure(self.model, self.task.validation(), device.choose(config), ALONE).loss


def trained(config: RunConfig, data: Data) -> dict[str, Tensor]:
    """The weights that the schedule of `config` ends at."""
    torch.manual_seed(config.seed)
    task = choose(config, data)
    model = task.model()
    run = Run(task, model, build(model, config), task.batches(ALONE))
    highest = peak(run.optimizer)
    for step in range(config.max_iters):
        for group in run.optimizer.param_groups:
            group["lr"] = lr_schedule.learning_rate(config, highest, step + 1)
        run.step()
    return model.state_dict()


def continued(
    config: RunConfig, data: Data, weights: Mapping[str, Tensor], rate: float, steps: int, learn: LearnedLR
) -> float:
    """The validation loss after `steps` steps of a fresh AutoMuon, at a constant lr of `rate` or learned from there."""
    task = choose(replace(config, seed=config.seed + 100), data)  # other batches than the weights saw first
    model = task.model()
    model.load_state_dict(weights)
    run = Run(task, model, AutoMuon(model.named_parameters(), lr=rate, learn=learn), task.batches(ALONE))
    for _ in range(steps):
        run.step()
    return run.validation_loss()


def measure(config: RunConfig, seeds: Sequence[int], steps: int) -> Losses:
    """The last validation losses, one per seed, by kind and rate."""
    data, losses = open_data(config), Losses()
    for seed in seeds:
        seeded = replace(config, seed=seed)
        weights = trained(seeded, data)
        for kind, learn in KINDS.items():
            for rate in RATES:
                loss = continued(seeded, data, weights, rate, steps, learn)
                losses.setdefault((kind, rate), []).append(loss)
    return losses


def table(losses: Losses) -> str:
    """A line per kind and rate."""
    best = min(mean(x) for (kind, _), x in losses.items() if kind == "left")
    rows = [
        f"{kind:12}{rate:8g}{'':4}{' '.join(f'{x:.4f}' for x in found)}{'':4}{mean(found):.4f}{mean(found) / best:9.4f}"
        for (kind, rate), found in losses.items()
    ]
    return "\n".join(["lr              from    by seed, mean, over the best that is left alone", *rows])


def main() -> None:
    """Prints a table per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TRAINED, default=list(TRAINED), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir", default="data")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, seeds {arguments.seeds}; validation loss after {arguments.steps} steps")
    for name in arguments.tasks:
        config = replace(TRAINED[name], data_dir=arguments.data_dir)
        print(f"\n{name}\n{table(measure(config, arguments.seeds, arguments.steps))}", flush=True)


if __name__ == "__main__":
    main()
