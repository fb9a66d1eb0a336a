"""AutoMuon and AutoAdam on networks and losses of other kinds than the bench's: nothing of them was chosen on these.

    python -m benchmarks.elsewhere [--tasks NAME ...] [--seeds 1 2 3] [--threads 1]

An LSTM on characters, a post-norm transformer and a residual network with batch normalisation on scikit-learn's digits,
and, without a schedule, an autoencoder of the digits and a regression (scikit-learn's diabetes, 353 patients). AdamW,
and torch's Muon at the size of its updates with it on the rest, have their usual betas and decay, and five learning
rates. Printed is the last validation loss, mean and range over seeds, on a set that is the same for all.
"""

import argparse
import math
import pydoc_data.topics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import Optimizer

from mada_lab.errors import ConfigError
from mada_lab.model.resnet import ResNet
from mada_lab.optimizers.baselines import muon, muon_groups
from mada_optim import AutoAdam, AutoMuon

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
Make = Callable[[nn.Module], Optimizer]
CONTENDERS: dict[str, Make] = {
    "AutoMuon": lambda net: AutoMuon(net.named_parameters()),
    "AutoAdam": lambda net: AutoAdam(net.named_parameters()),
    **{f"AdamW {lr:g}": lambda net, lr=lr: torch.optim.AdamW(net.parameters(), lr=lr) for lr in RATES},
    **{f"Muon {lr:g}": lambda net, lr=lr: muon(muon_groups(net.named_parameters()), {"lr": lr}) for lr in RATES},
}
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes:
        network: Makes the network.
        loss: Of its output and the target.
        train: Inputs and targets.
        held_out: The validation set.
        steps: Of the optimizer.
        batch: Examples a step.
        cosine: Whether a warm-up of a twentieth and a cosine to a tenth set the course of the lr; else it is constant.
    """

    network: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    train: Batch
    held_out: Batch
    steps: int
    batch: int
    cosine: bool


class CharacterLSTM(nn.Module):
    """Predicts the next of 128 characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 64)
        self.lstm = nn.LSTM(64, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 128)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) to (batch, 128, length)."""
        return self.head(self.lstm(self.embedding(ids))[0]).mT


class PatchTransformer(nn.Module):
    """Sixteen patches of an 8 x 8 image through two layers that normalise after each block, as in 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(4, 64)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(16, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 8, 8) to (batch, 10)."""
        patches = functional.unfold(images, 2, stride=2).mT
        return self.head(self.encoder(self.patch_embedding(patches) + self.position_embedding).mean(1))


class BatchNormResNet(ResNet):
    """Logits alone."""

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        """(batch, 1, 8, 8) to (batch, 10)."""
        return super().forward(images, torch.zeros(len(images), dtype=torch.long))[0]


def autoencoder() -> nn.Module:
    """64 numbers through 8."""
    sizes = ((64, 64), (64, 8), (8, 64), (64, 64))
    layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(*layers[:-1])


def regression() -> nn.Module:
    """Ten features to a number."""
    return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


def tasks() -> dict[str, Task]:
    """All of them, by name; the data come with Python and scikit-learn."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    ids = torch.tensor([min(ord(x), 127) for x in text])[: len(text) // 65 * 65].view(-1, 65)
    characters = (ids[:, :-1], ids[:, 1:])
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labeled = (images, torch.tensor(digits.target))
    itself = (images.flatten(1), images.flatten(1))
    x, y = (torch.tensor(z, dtype=torch.float32) for z in load_diabetes(return_X_y=True, scaled=True))
    table = (x * math.sqrt(len(x)), ((y - y.mean()) / y.std()).unsqueeze(1))
    entropy, square = functional.cross_entropy, functional.mse_loss
    return {
        "lstm": Task(CharacterLSTM, entropy, *split(characters), steps=500, batch=16, cosine=True),
        "post-norm": Task(PatchTransformer, entropy, *split(labeled), steps=400, batch=64, cosine=True),
        "resnet": Task(
            lambda: BatchNormResNet(1, 10, 8, 8), entropy, *split(labeled), steps=200, batch=64, cosine=True
        ),
        "autoencoder": Task(autoencoder, square, *split(itself), steps=1000, batch=64, cosine=False),
        "regression": Task(regression, square, *split(table), steps=300, batch=32, cosine=False),
    }


def split(data: Batch) -> tuple[Batch, Batch]:
    """Four fifths and one, drawn once for all."""
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(0))
    cut = len(order) * 4 // 5
    return (data[0][order[:cut]], data[1][order[:cut]]), (data[0][order[cut:]], data[1][order[cut:]])


def validation_loss(task: Task, make: Make, seed: int) -> float:
    """After training; infinite where it isn't a number."""
    torch.manual_seed(seed)
    net = task.network()
    opt, generator = make(net), torch.Generator().manual_seed(seed)
    course = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: course_at(step, task))
    for _ in range(task.steps):
        rows = torch.randint(len(task.train[0]), (task.batch,), generator=generator)
        opt.zero_grad()
        task.loss(net(task.train[0][rows]), task.train[1][rows]).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        course.step()
    net.eval()
    with torch.no_grad():
        loss = task.loss(net(task.held_out[0]), task.held_out[1]).item()
    return loss if math.isfinite(loss) else math.inf


def course_at(step: int, task: Task) -> float:
    """The lr over its peak."""
    warm = task.steps // 20
    if not task.cosine:
        return 1.0
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / (task.steps - warm)))


def row(task: Task, make: Make, seeds: list[int]) -> str:
    """Mean and range over seeds; nothing for Muon where no matrix is for it, as it refuses kernels of convolutions."""
    try:
        losses = [validation_loss(task, make, seed) for seed in seeds]
    except ConfigError:
        return "-"
    return f"{sum(losses) / len(losses):.4f} [{min(losses):.4f}, {max(losses):.4f}]"


def main() -> None:
    """Prints a table per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = tasks()
    parser.add_argument("--tasks", nargs="+", choices=everything, default=list(everything), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, seeds {arguments.seeds}; last validation loss, mean [range]\n")
    print(f"{'':18}" + "".join(f"{name:>26}" for name in arguments.tasks))
    for name, make in CONTENDERS.items():
        print(f"{name:18}", end="", flush=True)
        for task in arguments.tasks:
            print(f"{row(everything[task], make, arguments.seeds):>26}", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
