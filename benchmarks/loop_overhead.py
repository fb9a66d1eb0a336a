"""What the loop's care costs: our training step against a bare one, and a checkpoint's share of the time between two.

    python benchmarks/loop_overhead.py [--model demo|shakespeare] [--rounds 200] [--folder DIR]

The bare step is nanoGPT's: batch, forward, backward, clip_grad_norm_, step, zero_grad. Ours adds one finiteness
decision, the means to give a step up, signals, and the question whether a look is due. Rounds time both in turn, on
equal models with equal data. Digest and checkpoint are timed by themselves, and spread over the 250 steps between two.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mada_lab.checkpoints.saver import Saver
from mada_lab.config.keys import TrainConfig
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import prepare
from mada_lab.training.lr_schedule import learning_rate
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import Trainer

MODELS = {
    "demo": replace(TrainConfig(), device="cpu", hyper_start=0),
    "shakespeare": replace(
        TrainConfig(), device="cpu", hyper_start=0, n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=8
    ),
}
INTERVAL = 250  # steps between checkpoints, the default


def bare_step(session: TrainState) -> None:
    """A step without care."""
    for group in session.optimizer.param_groups:
        group["lr"] = learning_rate(session.config, session.peak, session.step + 1)
    ids, targets = session.batches.next()
    _, loss = session.model(ids, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(session.model.parameters(), session.config.grad_clip)
    session.optimizer.step()
    session.optimizer.zero_grad()
    session.step += 1


class Quiet:
    """Listens to nothing."""

    def step(self, done: int) -> None:
        """Does nothing."""

    def row(self, row: dict[str, Any]) -> None:
        """Does nothing."""


def careful_step(trainer: Trainer) -> None:
    """What `mada_lab.training.trainer.train` does between two rows."""
    trainer.between_steps()
    trainer.train_step()


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Prints the medians, the paired ratio, and the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; default: a temporary folder")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        corpus = Corpus.open(prepare("pydoc", Path(folder) / "data"))
        never = {"log_interval": 10**9, "eval_interval": 10**9}  # rows and evaluations are not care, but work asked for
        config = replace(MODELS[arguments.model], out_dir=str(Path(folder) / "run"), max_iters=10**8, **never)
        bare, careful = TrainState.start(config, corpus), TrainState.start(config, corpus)
        pairs = []
        trainer = Trainer(careful, Quiet())
        trainer.prepare()
        with trainer.signals, trainer.opened():
            for round_ in range(arguments.rounds + 5):
                works = [lambda: bare_step(bare), lambda: careful_step(trainer)]
                order = (0, 1) if round_ % 2 else (1, 0)  # each goes first every other time
                took = {i: seconds(works[i]) for i in order}
                pairs.append((took[0], took[1]))
        pairs = pairs[5:]
        step = statistics.median(a for a, _ in pairs)
        low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4, method="inclusive")
        print(f"{arguments.model}: {careful.model.parameter_count():,} parameters, torch {torch.__version__}")
        print(f"bare step {step * 1e3:.2f} ms; ours / bare {middle:.4f} [{low:.4f}, {high:.4f}], {len(pairs)} pairs")
        print_shares(careful, step)


def print_shares(session: TrainState, step: float) -> None:
    """A digest and a checkpoint, in the loop and in the background, as shares of INTERVAL steps."""
    for name, background in (("checkpoint in the loop", False), ("checkpoint in the background", True)):
        times = []
        for _ in range(5):
            with Saver(replace(session.config, background_save=background)) as saver:
                session.step += 1
                times.append(seconds(lambda saver=saver: saver.save(session.checkpoint())))
        print_share(name + " (its digest included)", statistics.median(times), step)
    print_share("a digest for the row", statistics.median(seconds(session.digest) for _ in range(5)), step)


def print_share(name: str, cost: float, step: float) -> None:
    """One line."""
    print(f"{name}: {cost * 1e3:.1f} ms, {100 * cost / (INTERVAL * step):.2f} % of {INTERVAL} steps")


if __name__ == "__main__":
    main()
