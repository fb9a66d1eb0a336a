"""How much the result of a tower of optimizers depends on the numbers that one must still choose, on real data.

    python -m benchmarks.towers docs/figures            runs everything, writes towers.csv, prints the tables, draws
    python -m benchmarks.towers docs/figures --draw     prints and draws again from towers.csv

From the repository root. That taller towers depend on them less is the claim of "Gradient Descent: The Ultimate
Optimizer" (Chandra et al., NeurIPS 2022), whose code, gdtuo, runs beside ours. A network on scikit-learn's digits, 200
full-batch steps for every tower, three seeds. A tower of height h has h optimizers above the one that moves the
weights; each learns the lr of the one below it.
"""

import csv
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gradient_descent_the_ultimate_optimizer import gdtuo
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mada_optim import SGD, Adam, HyperOptimizer, HyperTorch

STEPS, SEEDS, HEIGHTS = 200, (0, 1, 2), (0, 1, 2, 3)
TRAINING = 1347  # of 1797 images; the other 450 are the validation set
DECADES = {"lr": range(-5, 2), "top": range(-4, 3), "all": range(-4, 3)}  # of what is varied
GOOD = 0.3  # nats of validation loss: what "good" means in the tables
CEILING = 10.0  # nats: what is worse is drawn there

Split = tuple[Tensor, Tensor]
Train = Callable[[nn.Module, Sequence[float]], None]


@dataclass(frozen=True)
class Family:
    """Towers of one kind.

    Attributes:
        title: For people.
        storeys: Hyper learning rate of every storey, where it is not the one that is varied.
        bottom: The lr of the lowest optimizer while the top's is varied: a tenth of the best fixed one.
        train: Trains a network with the tower of these learning rates, the lowest first.
    """

    title: str
    storeys: float
    bottom: float
    train: Train


@dataclass(frozen=True)
class Result:
    """One training run: which tower, what was varied to what value, and the losses at its end in nats."""

    family: str
    varied: str
    height: int
    value: float
    seed: int
    training: float
    validation: float


@cache
def digits() -> tuple[Split, Split]:
    """Images (n, 64) in [0, 1] and labels (n,), for training and for validation."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, validation = order[:TRAINING], order[TRAINING:]
    return (x[train], y[train]), (x[validation], y[validation])


def network() -> nn.Module:
    """64 inputs, 32 hidden units, 10 classes."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def loss(model: nn.Module, split: Split) -> Tensor:
    """Cross-entropy over all of `split`, in nats, 0-d."""
    x, y = split
    return nn.functional.cross_entropy(model(x), y)


def tower(classes: Sequence[type[HyperOptimizer]], params: Any, lrs: Sequence[float]) -> HyperOptimizer:
    """The optimizer `classes[0]` with the others above it; all but the highest learn the logarithm of their lr."""
    if len(lrs) == 1:
        return classes[0](params, lr=lrs[0])
    above = HyperTorch("lr", make=lambda q: tower(classes[1:], q, lrs[1:]), start=0)
    return classes[0](params, lr=lrs[0], learn=above)


def with_ours(*classes: type[HyperOptimizer]) -> Train:
    """Training with a tower of these classes."""

    def train(model: nn.Module, lrs: Sequence[float]) -> None:
        opt = tower(classes, model.parameters(), lrs)
        for _ in range(STEPS):
            opt.zero_grad()
            loss(model, digits()[0]).backward()
            opt.step()

    return train


def with_gdtuo(model: nn.Module, lrs: Sequence[float]) -> None:
    """Training with gdtuo's tower of SGD, which learns alpha itself."""
    above = gdtuo.NoOpOptimizer()
    for lr in reversed(lrs):
        above = gdtuo.SGD(lr, optimizer=above)
    wrapper = gdtuo.ModuleWrapper(model, optimizer=above)
    wrapper.initialize()
    for _ in range(STEPS):
        wrapper.begin()
        value = loss(model, digits()[0])
        wrapper.zero_grad()
        value.backward()
        wrapper.step()


FAMILIES = {
    "sgd": Family("SGD on SGD", 1.0, 0.1, with_ours(SGD, SGD, SGD, SGD)),
    "sgd_adam": Family("SGD, above it Adam", 0.03, 0.1, with_ours(SGD, Adam, Adam, Adam)),
    "adam": Family("Adam on Adam", 0.03, 1e-3, with_ours(Adam, Adam, Adam, Adam)),
    "gdtuo": Family("gdtuo: SGD on SGD", 0.03, 0.1, with_gdtuo),
}

VARIED = {"lr": HEIGHTS, "top": HEIGHTS[1:], "all": HEIGHTS[1:]}
"""What is varied, and in towers of which heights: the lowest lr, the highest one, or all but the lowest together."""

Job = tuple[str, str, int, float, int]


def jobs() -> Iterator[Job]:
    """Every run: family, what is varied, height, its value, seed."""
    for name in FAMILIES:
        for varied, heights in VARIED.items():
            values = [10.0**x for x in DECADES[varied]]
            yield from ((name, varied, *rest) for rest in product(heights, values, SEEDS))


def run(job: Job) -> Result:
    """Trains once."""
    torch.set_num_threads(1)
    name, varied, height, value, seed = job
    family = FAMILIES[name]
    lrs = [family.bottom, *[family.storeys] * height]
    where = {"lr": slice(0, 1), "top": slice(-1, None), "all": slice(1, None)}[varied]
    lrs[where] = [value] * len(lrs[where])
    torch.manual_seed(seed)
    model = network()
    family.train(model, lrs)
    with torch.no_grad():
        ends = [loss(model, split).item() for split in digits()]
    training, validation = (x if math.isfinite(x) else math.inf for x in ends)
    return Result(*job, training, validation)


def write(results: Iterable[Result], path: Path) -> None:
    """One line per run."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        table.writeheader()
        table.writerows({k: f"{x:.5g}" if isinstance(x, float) else x for k, x in asdict(r).items()} for r in results)


def read(path: Path) -> list[Result]:
    """What `write` wrote."""
    kinds = {field.name: {"int": int, "float": float, "str": str}[str(field.type.__name__)] for field in fields(Result)}
    with path.open(newline="") as file:
        return [Result(**{key: kinds[key](x) for key, x in row.items()}) for row in csv.DictReader(file)]


def curve(results: Sequence[Result], family: str, varied: str, height: int, kind: str) -> dict[float, list[float]]:
    """By value of what is varied: the losses of the seeds, in their order."""
    found: dict[float, list[float]] = {}
    for r in results:
        if (r.family, r.varied, r.height) == (family, varied, height):
            found.setdefault(r.value, []).append(getattr(r, kind))
    return found


def tables(results: Sequence[Result]) -> Iterator[str]:
    """Markdown: the median losses, and how many of the values end well."""
    for varied, heights in VARIED.items():
        decades = DECADES[varied]
        yield (
            f"\n| training / validation, by {varied} | height | " + " | ".join(f"1e{x}" for x in decades) + " | good |"
        )
        yield "|---" * (len(decades) + 3) + "|"
        for name, height in product(FAMILIES, heights):
            ends = [[median(x) for x in curve(results, name, varied, height, kind).values()] for kind in KINDS]
            cells = " | ".join(f"{cell(a)} / {cell(b)}" for a, b in zip(*ends, strict=True))
            good = sum(b < GOOD for b in ends[1])
            yield f"| {FAMILIES[name].title} | {height} | {cells} | {good} of {len(decades)} |"


def cell(loss: float) -> str:
    """A loss in two digits; above the ceiling of the figures only that it is."""
    return f"{loss:.2g}" if loss < CEILING else "-"


KINDS = ("training", "validation")


def main() -> None:
    """Runs, writes, prints, draws."""
    from benchmarks.towers_figure import draw

    folder = Path(sys.argv[1])
    if "--draw" not in sys.argv:
        with ProcessPoolExecutor() as pool:
            write(pool.map(run, jobs(), chunksize=8), folder / "towers.csv")
    results = read(folder / "towers.csv")
    print("\n".join(tables(results)))
    draw(results, folder)


if __name__ == "__main__":
    main()
