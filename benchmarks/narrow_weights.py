"""Fine-tuning with weights in bf16 and fp16 at an lr of 1e-5: rounded to nearest, and rounded stochastically.

    python -m benchmarks.narrow_weights [--seeds 1 2 3] [--steps 1000] [--lr 1e-5]

From the repository root. An MLP (64, 256, 256, 10) learns scikit-learn's digits by 400 steps of AdamW at 1e-3. Then
it is fine-tuned on the digits moved one pixel to the right, from the same weights, with the same batches, at a
constant lr, without weight decay. The network computes in fp32 from the weights as they are stored, so that the rows
differ in the storage of weights and slots alone; gradients come in the dtype of the weights. Printed are the validation
loss (median over the seeds, smallest and largest), the share of weights that differ from their start, and the
process's CPU time for a step of the optimizer. `torch` is torch.optim.AdamW, whose slots have the dtype of the
weights; the other rows are mada_optim.Adam, whose slots are in fp32 unless the row says otherwise.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.optimizer import Optimizer

from mada_optim import Adam

BATCH, VALIDATION = 64, 597
Weights = Mapping[str, Tensor]
Make = Callable[[list[nn.Parameter], float], Optimizer]


def ours(**options: object) -> Make:
    """Adam with these options."""
    return lambda params, lr: Adam(params, lr=lr, betas=(0.9, 0.999), **options)  # type: ignore[arg-type]


def of_torch(params: list[nn.Parameter], lr: float) -> Optimizer:
    """AdamW, likewise."""
    return torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), weight_decay=0.0)


BF16, FP16 = torch.bfloat16, torch.float16
ROWS: dict[str, tuple[torch.dtype, Make]] = {
    "fp32, torch": (torch.float32, of_torch),
    "fp32": (torch.float32, ours()),
    "bf16, torch": (BF16, of_torch),
    "bf16, to nearest": (BF16, ours()),
    "bf16, stochastic": (BF16, ours(weights="stochastic")),
    "bf16, stochastic, slots in bf16": (BF16, ours(weights="stochastic", state_dtype=BF16)),
    "fp16, to nearest": (FP16, ours()),
    "fp16, stochastic": (FP16, ours(weights="stochastic")),
}


class Digits(NamedTuple):
    """Images, (N, 64) in [0, 1], and labels."""

    images: Tensor
    labels: Tensor

    def moved(self) -> "Digits":
        """One pixel to the right; the last column comes in at the left."""
        return Digits(self.images.view(-1, 8, 8).roll(1, dims=2).flatten(1), self.labels)


class Result(NamedTuple):
    """What a run ends with."""

    loss: float
    moved: float  # the share of weights that differ from their start
    milliseconds: float  # of CPU time per step of the optimizer


def digits(seed: int) -> tuple[Digits, Digits]:
    """The training and the validation set, shuffled by the seed."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, y = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    return Digits(x[VALIDATION:], y[VALIDATION:]), Digits(x[:VALIDATION], y[:VALIDATION])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def loss_of(model: nn.Module, weights: Weights, data: Digits) -> Tensor:
    """The mean cross-entropy with the weights widened to fp32."""
    wide = {name: x.float() for name, x in weights.items()}
    return nn.functional.cross_entropy(functional_call(model, wide, (data.images,)), data.labels)


def train(weights: dict[str, nn.Parameter], optimizer: Optimizer, data: Digits, steps: int, seed: int) -> float:
    """Trains on batches drawn by the seed; returns the optimizer's seconds of CPU time."""
    model, generator, seconds = network(), torch.Generator().manual_seed(seed), 0.0
    for _ in range(steps):
        rows = torch.randint(len(data.labels), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss_of(model, weights, Digits(data.images[rows], data.labels[rows])).backward()
        begin = time.process_time()
        optimizer.step()
        seconds += time.process_time() - begin
    return seconds


def pretrained(data: Digits, seed: int) -> Weights:
    """The weights of a network that knows the digits where they were."""
    torch.manual_seed(seed)
    weights = dict(network().named_parameters())
    train(weights, torch.optim.AdamW(list(weights.values()), lr=1e-3), data, steps=400, seed=seed)
    return {name: p.detach() for name, p in weights.items()}


def fine_tuned(row: str, start: Weights, sets: tuple[Digits, Digits], lr: float, steps: int, seed: int) -> Result:
    dtype, make = ROWS[row]
    weights = {name: nn.Parameter(x.to(dtype, copy=True)) for name, x in start.items()}
    before = [p.detach().clone() for p in weights.values()]
    training, validation = (x.moved() for x in sets)
    seconds = train(weights, make(list(weights.values()), lr), training, steps, seed + 1000)
    moved = torch.cat([(p != x).flatten() for p, x in zip(weights.values(), before, strict=True)])
    with torch.no_grad():
        loss = loss_of(network(), weights, validation).item()
    return Result(loss, moved.float().mean().item(), 1e3 * seconds / steps)


def line(name: str, losses: list[float], rest: str = "") -> str:
    return f"{name:32} {median(losses):.4f} ({min(losses):.4f} to {max(losses):.4f}) {rest}"


def main() -> None:
    """Prints a line per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=1e-5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {arguments.steps} steps at {arguments.lr:g}, seeds {arguments.seeds}")
    sets = [digits(seed) for seed in arguments.seeds]
    starts = [pretrained(of_seed[0], seed) for of_seed, seed in zip(sets, arguments.seeds, strict=True)]
    model = network()
    with torch.no_grad():
        first = [loss_of(model, start, x.moved()).item() for start, (_, x) in zip(starts, sets, strict=True)]
    print(f"{'weights':32} validation loss             moved   ms per step of the optimizer")
    print(line("before", first))
    for row in ROWS:
        results = [
            fine_tuned(row, start, of_seed, arguments.lr, arguments.steps, seed)
            for start, of_seed, seed in zip(starts, sets, arguments.seeds, strict=True)
        ]
        moved, milliseconds = median(x.moved for x in results), median(x.milliseconds for x in results)
        print(line(row, [x.loss for x in results], f"{moved:7.1%} {milliseconds:6.2f}"), flush=True)


if __name__ == "__main__":
    main()
