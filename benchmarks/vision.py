"""AdamW, SGD with momentum and MADA on a part of CIFAR-10, on one CPU core: accuracy and loss on held-out images.

    python -m benchmarks.vision runs docs/figures                 trains, writes vision.csv, prints the tables, draws
    python -m benchmarks.vision runs docs/figures --data-dir D    with the data set in D instead of data
    python -m benchmarks.vision runs docs/figures --draw          prints and draws again from what is in runs

From the repository root, after `mada-lab data prepare cifar10`. 5,000 training images and 2,000 test images. The CNN: 3
epochs for every run, and for each optimizer a sweep of three learning rates of its own, on seed 0; the rate of the
lowest test loss then trains on three other seeds, which are reported. MADA with nothing learned has the rate of MADA.
The ResNet: 2 epochs on these seeds, at the middle rates, and for SGD at the 0.1 of He et al. (2016), without a sweep.
Stopped, it goes on where it stood.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch

from mada_lab.config.keys import VisionConfig
from mada_lab.data.images import ImageData
from mada_lab.data.prepare import open_or_prepare
from mada_lab.plots.losses import validation_accuracy, validation_loss
from mada_lab.plots.style import drawing
from mada_lab.records.run_record import SUMMARY, Run, read_run
from mada_lab.training.trainer import train

SWEEP_SEED, SEEDS = 0, (1, 2, 3)

BUDGET = VisionConfig(
    dataset="cifar10",
    device="cpu",
    train_images=5000,
    test_images=2000,
    crop_padding=4,
    flip=True,
    batch_size=64,
    max_iters=234,
    warmup_iters=20,
    min_lr=0.0,
    weight_decay=0.0,
    grad_clip=0.0,
    eval_interval=78,
    log_interval=5,
    keep_checkpoints=1,
)

MODELS = {
    "cnn": replace(BUDGET, model="cnn", width=8),
    "resnet": replace(BUDGET, model="resnet", depth=8, width=8, max_iters=156),
}
"""Both small enough for the budget of a CPU: 39,514 and 19,218 parameters."""


@dataclass(frozen=True)
class Contender:
    """An optimizer, the keys that choose it, its sweep on the CNN, and its learning rate for the ResNet."""

    title: str
    keys: dict[str, str | float]
    rates: tuple[float, ...]
    resnet: float


ADAPTIVE = ((1e-3, 3e-3, 1e-2), 3e-3)
CONTENDERS = {
    "adamw": Contender("AdamW (torch)", {"optimizer": "adamw"}, *ADAPTIVE),
    "sgd": Contender("SGD, momentum 0.9", {"optimizer": "sgd", "momentum": 0.9}, (1e-2, 3e-2, 1e-1), 0.1),
    "mada": Contender("MADA", {"optimizer": "mada"}, *ADAPTIVE),
    "fixed": Contender("MADA, nothing learned", {"optimizer": "mada", "learn": "none"}, *ADAPTIVE),
}
SWEPT = ("adamw", "sgd", "mada")
COMPARED = {"cnn": tuple(CONTENDERS), "resnet": SWEPT}


def name_of(model: str, contender: str, rate: float, seed: int) -> str:
    """The folder of a run."""
    return f"{model}-{contender}-{rate:g}-{seed}"


@dataclass(frozen=True)
class Bench:
    """Where runs lie, and whether those that are missing are made."""

    runs: Path
    data_dir: Path
    draw_only: bool

    def run(self, model: str, contender: str, rate: float, seed: int) -> Run:
        """A run, trained to its end first if need be."""
        folder = self.runs / name_of(model, contender, rate, seed)
        if not (folder / SUMMARY).exists() and not self.draw_only:
            where = {"data_dir": str(self.data_dir), "out_dir": str(folder)}
            begun = "resume" if (folder / "manifest.json").exists() else "scratch"
            keys = {**CONTENDERS[contender].keys, **where, "learning_rate": rate, "seed": seed, "init_from": begun}
            config = replace(MODELS[model], **keys)  # type: ignore[arg-type]
            train(config, open_or_prepare(config.dataset, self.data_dir, ImageData), Quiet())
        return read_run(folder)

    def sweep(self, model: str, contender: str) -> dict[float, Run]:
        """The runs of the sweep, by learning rate; there is one on the CNN."""
        if model != "cnn":
            return {}
        swept = "mada" if contender == "fixed" else contender
        return {rate: self.run(model, swept, rate, SWEEP_SEED) for rate in CONTENDERS[contender].rates}

    def reported(self, model: str, contender: str) -> tuple[float, list[Run]]:
        """The learning rate that the sweep chose, or that is set, and its runs on the other seeds."""
        losses = {rate: ended(run)[1] for rate, run in self.sweep(model, contender).items()}
        best = min(losses, key=lambda rate: losses[rate], default=CONTENDERS[contender].resnet)
        return best, [self.run(model, contender, best, seed) for seed in SEEDS]


class Quiet:
    """Listens to a run, and says nothing."""

    def step(self, done: int) -> None:
        """`done` steps are done."""

    def row(self, row: object) -> None:
        """A row was added."""


def ended(run: Run) -> tuple[float, float, float]:
    """Test accuracy, test loss and training loss at the end of a run."""
    assert run.summary is not None, run.folder
    accuracy, test, training = (run.summary[f"final_{key}"] for key in ("val_accuracy", "val_loss", "train_loss"))
    return accuracy, test, training


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def tables(bench: Bench) -> Iterator[str]:
    """Markdown: the sweep, and the results on the other seeds."""
    yield "| cnn, seed 0: test loss (accuracy) by lr | low | middle | high |\n|---|---|---|---|"
    for key in SWEPT:
        ends = {rate: ended(run) for rate, run in bench.sweep("cnn", key).items()}
        cells = [f"{rate:g}: {loss:.3f} ({accuracy:.1%})" for rate, (accuracy, loss, _) in ends.items()]
        yield f"| {CONTENDERS[key].title} | " + " | ".join(cells) + " |"
    for model in MODELS:
        yield f"\n| {model}, seeds 1 to 3 | lr | test accuracy (%) | test loss | training loss |"
        yield "|---|---|---|---|---|"
        for key in COMPARED[model]:
            rate, runs = bench.reported(model, key)
            accuracies, losses, training = zip(*map(ended, runs), strict=True)
            numbers = spread([100 * x for x in accuracies], 1), spread([*losses], 3), spread([*training], 3)
            yield f"| {CONTENDERS[key].title} | {rate:g} | " + " | ".join(numbers) + " |"


def write(bench: Bench, path: Path) -> None:
    """One line per run."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["model", "optimizer", "lr", "seed", "test_accuracy", "test_loss", "training_loss"])
        for model in MODELS:
            for key in COMPARED[model]:
                swept = bench.sweep(model, key).values() if key in SWEPT else ()
                for run in (*swept, *bench.reported(model, key)[1]):
                    config = run.manifest["config"]
                    numbers = (f"{x:.5g}" for x in (config["learning_rate"], config["seed"], *ended(run)))
                    table.writerow([model, key, *numbers])


def draw(bench: Bench, folder: Path) -> None:
    """Test loss and accuracy of the CNN over the steps, on the first of the reported seeds."""
    runs = [replace(bench.reported("cnn", key)[1][0], name=it.title) for key, it in CONTENDERS.items()]
    for kind, figure in (("loss", validation_loss(runs)), ("accuracy", validation_accuracy(runs))):
        with drawing(salt=f"vision_{kind}"):
            figure.savefig(folder / f"vision_{kind}.svg", metadata={"Date": None})


def main(words: list[str]) -> None:
    """As the text at the head says."""
    torch.set_num_threads(1)
    data_dir = Path(words[words.index("--data-dir") + 1]) if "--data-dir" in words else Path("data")
    bench, figures = Bench(Path(words[0]), data_dir, "--draw" in words), Path(words[1])
    print("\n".join(tables(bench)))
    write(bench, figures / "vision.csv")
    draw(bench, figures)


if __name__ == "__main__":
    main(sys.argv[1:])
