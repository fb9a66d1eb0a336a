"""A training step of `mada-lab train` against nanoGPT's own loop, on nanoGPT's small configuration for CPUs.

    python -m benchmarks.against_nanogpt PATH [--steps 250] [--repeats 5] [--threads N]

PATH is a checkout of https://github.com/karpathy/nanoGPT. Both train 4 layers of 128 channels, blocks of 64 characters,
batches of 12, with AdamW, on the same text, and report every step. A repeat runs the two processes one after the other,
in turns. A step's time is the time between two reports, from the 21st step on: data, forward, backward, clipping, the
optimizer and the report are in it, evaluations and checkpoints are not. Printed: milliseconds per step of each, and the
paired ratio.
"""

import argparse
import json
import os
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import prepare

SIZES = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12, "dropout": 0.0}
WARM_UP = 20  # steps that are left out


def words(steps: int) -> list[str]:
    """The keys that both commands take."""
    keys = {**SIZES, "max_iters": steps, "lr_decay_iters": steps, "device": "cpu", "compile": False}
    keys |= {"learning_rate": 1e-3, "min_lr": 1e-4, "beta2": 0.99, "log_interval": 1, "warmup_iters": 50}
    keys |= {"gradient_accumulation_steps": 1, "eval_iters": 1, "eval_interval": 10 * steps}
    return [f"--{key}={x}" for key, x in keys.items()]


def copy_for_nanogpt(corpus: Corpus, folder: Path) -> None:
    """Writes the tokens as nanoGPT reads them: uint16 in data/NAME/*.bin, and the number of ids in meta.pkl."""
    folder.mkdir(parents=True)
    for name, tokens in (("train", corpus.train), ("val", corpus.val)):
        np.asarray(tokens[:]).astype(np.uint16).tofile(folder / f"{name}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": corpus.meta.vocabulary.size}))


def of_nanogpt(checkout: Path, steps: int, threads: int) -> float:
    """Milliseconds of a step of nanoGPT's train.py, the median: its own report of each."""
    command = [sys.executable, "train.py", "--dataset=text", "--dtype=float32", *words(steps)]
    found = re.findall(r"iter (\d+): loss .*, time ([\d.]+)ms", output(command, checkout, threads))
    return statistics.median(float(time) for step, time in found if int(step) > WARM_UP)


def of_ours(data: Path, out: Path, steps: int, threads: int) -> float:
    """Milliseconds of a step of `mada-lab train`, the median: the time between two rows of its record."""
    here = [f"--data_dir={data}", "--dataset=pydoc", f"--out_dir={out}", "--optimizer=adamw", "--bias=False"]
    command = [sys.executable, "-m", "mada_lab", "train", *here, *words(steps)]
    output(command, data, threads)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows if row["step"] > WARM_UP and row["step"] < steps]
    shutil.rmtree(out)
    return 1e3 * statistics.median(after - before for before, after in pairwise(seconds))


def output(command: list[str], folder: Path, threads: int) -> str:
    """What a command prints. Raises RuntimeError with its errors if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: {run.stderr[-2000:]}")
    return run.stdout


def main() -> None:
    """Prints the milliseconds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    if not (given.checkout / "train.py").is_file():
        parser.error(f"{given.checkout}: expected a checkout of nanoGPT, with train.py, got none")

    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        data, theirs = Path(folder) / "data", Path(folder) / "nanogpt"
        shutil.copytree(given.checkout, theirs, ignore=shutil.ignore_patterns(".git", "data"))
        copy_for_nanogpt(Corpus.open(prepare("pydoc", data)), theirs / "data" / "text")
        for i in range(given.repeats):
            works = [
                lambda: of_nanogpt(theirs, given.steps, given.threads),
                lambda i=i: of_ours(data, Path(folder) / f"run{i}", given.steps, given.threads),
            ]
            took = {j: works[j]() for j in ((0, 1) if i % 2 else (1, 0))}  # each goes first every other time
            pairs.append((took[0], took[1]))
            print(f"nanoGPT {took[0]:.2f} ms, mada-lab {took[1]:.2f} ms, ratio {took[1] / took[0]:.3f}", flush=True)
    ratios = sorted(b / a for a, b in pairs)
    middle, low, high = statistics.median(ratios), ratios[0], ratios[-1]
    print(f"mada-lab / nanoGPT: median {middle:.3f}, from {low:.3f} to {high:.3f}, {len(ratios)} pairs, ", end="")
    print(f"{given.threads} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
