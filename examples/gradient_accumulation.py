"""Gradient accumulation: four micro-batches of 16 make the same step as one batch of 64.

`step` computes the hypergradient from the whole accumulated gradient, so the coefficients move in the same way, too.
Multiply each loss by its share of the batch: `backward` sums gradients, and the loss of a micro-batch is a mean.
"""

from typing import Any

import torch
from digits import mlp, shuffled, train_and_test

from mada_optim import MADA, param_groups


def train(micro_batches: int, epochs: int = 5) -> dict[str, Any]:
    model = mlp()
    opt = MADA(param_groups(model), lr=3e-3)
    batches, losses = shuffled(train_and_test()[0]), []
    for _ in range(epochs):
        for x, y in batches:
            opt.zero_grad()
            total = 0.0
            for xs, ys in zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True):
                loss = torch.nn.functional.cross_entropy(model(xs), ys) * len(xs) / len(x)
                loss.backward()
                total += loss.item()
            opt.step()
            losses.append(total)
    return {"losses": losses, "coefficients": opt.coefficients(), "parameters": list(model.parameters())}


def main() -> dict[str, Any]:
    runs = {"one batch": train(1), "four micro-batches": train(4)}
    for name, run in runs.items():
        print(f"{name}: loss {run['losses'][-1]:.4f}, {run['coefficients']}")
    return runs


if __name__ == "__main__":
    main()
