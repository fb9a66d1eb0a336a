"""Lightning Fabric: your own loop, with Fabric's precision, clipping and checkpoints.

`fabric.setup` wraps the optimizer; `opt.coefficients()` and its other methods work through the wrapper.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from digits import mlp, train_and_test
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from mada_optim import MADA, HyperSGD, param_groups


def setup(fabric: Fabric) -> dict[str, Any]:
    model = mlp()
    opt = MADA(param_groups(model), lr=5e-3, learn=HyperSGD("all", start=20))
    model, opt = fabric.setup(model, opt)
    return {"model": model, "opt": opt}


def train(fabric: Fabric, run: dict[str, Any], epochs: int) -> list[float]:
    model, opt = run["model"], run["opt"]
    batches, losses = fabric.setup_dataloaders(DataLoader(train_and_test()[0], 64)), []
    for _ in range(epochs):
        for x, y in batches:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            fabric.backward(loss)
            fabric.clip_gradients(model, opt, max_norm=1.0)
            opt.step()
            losses.append(loss.item())
    return losses


def main() -> dict[str, Any]:
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    run, resumed = setup(fabric), setup(fabric)
    losses = train(fabric, run, epochs=3)
    with tempfile.TemporaryDirectory() as folder:
        fabric.save(Path(folder, "run.ckpt"), run)
        fabric.load(Path(folder, "run.ckpt"), resumed)
    losses += train(fabric, run, epochs=3)
    train(fabric, resumed, epochs=3)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}", run["opt"].coefficients())
    return {"losses": losses, "run": run, "resumed": resumed}


if __name__ == "__main__":
    main()
