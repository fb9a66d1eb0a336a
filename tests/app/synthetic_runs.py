"""Small run folders as training would leave them, without training."""

import math
import random
from pathlib import Path

from mada_lab.records.run_record import RunRecord

INITIAL = {"beta1": 0.9, "beta2": 0.95, "beta3": 0.0, "rho": 0.6, "c": 1.0, "gamma": 1.0}
CONFIG = {"dataset": "tinyshakespeare", "batch_size": 12, "learning_rate": 6e-4, "optimizer": "mada", "seed": 1}
VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "mada_optim": "0.1.0"}


def manifest(config=None):
    config = CONFIG | (config or {})
    data = {"name": config["dataset"], "sha256": {"train": "a1" * 32, "val": "b2" * 32}}
    return {
        "config": config,
        "optimizer": config["optimizer"],
        "versions": VERSIONS,
        "commit": "0123abcd",
        "seed": config["seed"],
        "data": data,
        "model": {"parameters": 124_439_808},
    }


def coefficients_at(step, last):
    t = step / last
    moves = {"beta1": 0.03 * t, "beta2": -0.004 * t, "beta3": 0.4 * t**2, "rho": -0.35 * t, "c": -1e-4 * t, "gamma": 0}
    return {name: value + moves[name] for name, value in INITIAL.items()}


def row_at(step, last, chance, learned=True, evaluated=True, gain=0.0):
    loss = 2.2 + 8.7 * math.exp(-step / (0.06 * last)) + 1.1 * math.exp(-step / (0.5 * last)) - gain * step / last
    row = {"step": step, "tokens": 12_288 * step, "train_loss": loss + chance.gauss(0, 0.07), "lr": 6e-4}
    row["seconds"] = 0.081 * step
    if evaluated:
        row["val_loss"] = loss + 0.05 + chance.gauss(0, 0.01)
    if learned:
        row["coefficients"] = coefficients_at(step, last)
        row["hypergradients"] = {name: chance.gauss(-0.002, 0.01) / (k + 1) for k, name in enumerate(INITIAL)}
    return row


def make_run(folder: Path, *, config=None, learned=True, steps=40, every=4, evaluate=20, finish=True, gain=0.0):
    """A run of `steps` optimizer steps; evaluate=None leaves every evaluation out."""
    chance = random.Random(folder.name)
    record = RunRecord.create(folder, manifest(config))
    rows = []
    for step in range(0, steps + 1, every):
        evaluated = evaluate is not None and step % evaluate == 0
        rows.append(row_at(step, steps, chance, learned, evaluated, gain))
        record.log(rows[-1])
    if finish:
        record.finish(summary_of(rows, (CONFIG | (config or {}))["optimizer"]))
    return folder


def summary_of(rows, optimizer):
    losses = [row["val_loss"] for row in rows if "val_loss" in row]
    return {
        "optimizer": optimizer,
        "steps": rows[-1]["step"],
        "initial_coefficients": rows[0].get("coefficients", {}),
        "final_coefficients": rows[-1].get("coefficients", {}),
        "final_train_loss": rows[-1]["train_loss"],
        "final_val_loss": losses[-1] if losses else None,
        "best_val_loss": min(losses, default=None),
        "seconds": rows[-1]["seconds"],
        "peak_memory_bytes": 3 * 2**30,
    }
