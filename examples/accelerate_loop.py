"""Hugging Face Accelerate: accumulation, clipping, and a saved state from which training continues bit for bit.

`accelerator.prepare` wraps the optimizer. `opt.optimizer` is the wrapped one, which has `coefficients()`.
"""

import tempfile
from typing import Any

import torch
from accelerate import Accelerator
from digits import mlp, train_and_test
from torch.utils.data import DataLoader

from mada_optim import MADA, HyperSGD, param_groups


def prepared(accelerator: Accelerator) -> tuple[Any, ...]:
    model = mlp()
    opt = MADA(param_groups(model), lr=5e-3, learn=HyperSGD("all", start=10))
    found: tuple[Any, ...] = accelerator.prepare(model, opt, DataLoader(train_and_test()[0], 32))
    return found


def train(
    accelerator: Accelerator, model: torch.nn.Module, opt: MADA, batches: DataLoader[Any], epochs: int
) -> list[float]:
    losses = []
    for _ in range(epochs):
        for x, y in batches:
            with accelerator.accumulate(model):  # opt.step() and zero_grad() take effect at every second batch
                loss = torch.nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                opt.step()
                opt.zero_grad()
                losses.append(loss.item())
    return losses


def main() -> dict[str, Any]:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, opt, batches = prepared(accelerator)
    losses = train(accelerator, model, opt, batches, epochs=3)
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)
        losses += train(accelerator, model, opt, batches, epochs=3)
        whole = [p.detach().clone() for p in model.parameters()]
        coefficients = opt.optimizer.coefficients()
        accelerator.load_state(folder)  # back to the middle, and again to the end
    train(accelerator, model, opt, batches, epochs=3)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}", coefficients)
    return {
        "losses": losses,
        "whole": whole,
        "resumed": list(model.parameters()),
        "coefficients": (coefficients, opt.optimizer.coefficients()),
    }


if __name__ == "__main__":
    main()
