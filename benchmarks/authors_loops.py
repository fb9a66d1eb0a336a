"""What the accidents of the authors' training loops change: their loops, their optimizer, and MADA, on a small GPT.

    python -m benchmarks.authors_loops [--settings shakespeare gpt2] [--seeds 1 2 3 4 5] [--steps 500]

From the repository root; the data prepare themselves (pydoc, by characters). The GPT is the demo's, 0.8M parameters.
The setting `shakespeare` has the numbers of the paper's Shakespeare runs, one forward pass a step; `gpt2` those of its
GPT-2 runs, five passes a step. In each: `mada_published` computes what the scripts did, `mada_released` is the authors'
optimizer on whole, clipped gradients, `mada` is this library's, and `adamw` is what they start from. All runs of a seed
have the same initial weights and the same batches. Printed are the final validation losses, their mean, the mean of the
differences to `mada` and its standard error, and the final coefficients of the first seed.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mada_lab.config.keys import TrainConfig
from mada_lab.tasks.open_data import open_data
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train

BASE = TrainConfig(learning_rate=3e-3, min_lr=3e-4, warmup_iters=50, beta1=0.9, beta2=0.95, weight_decay=0.1)
LEARNED = {"beta3": 0.0, "c": 1.0, "gamma": 1.0, "bounds": "beta1=0.01:0.99,beta2=0.501:0.99,beta3=0:0.99"}
SHAKESPEARE = {
    **LEARNED,
    "rho": 1.0,
    "eps": 1e-8,
    "hyper_lr": 2.5e-3,
    "hyper_momentum": "beta1=0.5,beta2=0.5,beta3=0.5,rho=0.5,c=0.5",
    "hyper_start": 0,
}
GPT2 = {**LEARNED, "rho": 0.6, "eps": 1e-6, "hyper_start": 50}
FROM_ZERO = {"lr_counts": "passes"}
#: By setting and kind, the keys of a run.
SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "shakespeare": {
        "adamw": {},
        "mada": SHAKESPEARE,
        "mada_released": SHAKESPEARE,
        "mada_published": {**SHAKESPEARE, **FROM_ZERO, "hyper_observe": "unclipped"},
    },
    "gpt2": {
        "adamw": {"gradient_accumulation_steps": 5},
        "mada": {**GPT2, "gradient_accumulation_steps": 5},
        "mada_released": {**GPT2, "gradient_accumulation_steps": 5},
        "mada_published": {
            **GPT2,
            **FROM_ZERO,
            "gradient_accumulation_steps": 5,
            "first_accumulation": 2,
            "hyper_observe": "first",
            "hyper_start": 51,
        },
    },
}


class Quiet:
    """Listens to nothing."""

    def step(self, done: int) -> None:
        """Does nothing."""

    def row(self, row: dict[str, Any]) -> None:
        """Does nothing."""


def run(keys: Mapping[str, Any], optimizer: str, seed: int, steps: int) -> TrainState:
    """A run, at its end."""
    sparse = {"eval_interval": steps, "log_interval": steps, "eval_iters": 100}
    config = replace(BASE, optimizer=optimizer, seed=seed, max_iters=steps, **sparse, **keys)
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, out_dir=str(Path(folder, "run")))
        return train(config, open_data(config), Quiet())


def row(name: str, losses: list[float], baseline: list[float], coefficients: Mapping[str, float]) -> str:
    """A line of the table."""
    apart = [x - y for x, y in zip(losses, baseline, strict=True)]
    error = stdev(apart) / sqrt(len(apart)) if len(apart) > 1 else float("nan")
    ends = ", ".join(f"{q} {x:.3f}" for q, x in coefficients.items())
    each = " ".join(f"{x:.4f}" for x in losses)
    return f"| {name} | {each} | {mean(losses):.4f} | {mean(apart):+.4f} ± {error:.4f} | {ends} |"


def main() -> None:
    """Prints a table for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=tuple(SETTINGS), choices=tuple(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3, 4, 5))
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    for setting in given.settings:
        ends = {
            name: [run(keys, name, seed, given.steps) for seed in given.seeds]
            for name, keys in SETTINGS[setting].items()
        }
        losses = {name: [x.val_loss or float("nan") for x in sessions] for name, sessions in ends.items()}
        print(f"\n{setting}\n\n| kind | validation loss by seed | mean | minus mada | coefficients of the first seed |")
        print("|---|---|---|---|---|")
        for name, sessions in ends.items():
            print(row(name, losses[name], losses["mada"], sessions[0].coefficients()), flush=True)


if __name__ == "__main__":
    main()
