"""Mixed precision: bf16 autocast, and fp16 autocast with a GradScaler; on a GPU if there is one, else on the CPU.

Parameters, slots and coefficients stay fp32 or wider. `scaler.step` skips a step with an overflow: neither weights nor
coefficients move. Call `scaler.unscale_` before you clip; without it, `scaler.step` unscales.
"""

from typing import Any

import torch
from digits import mlp, shuffled, train_and_test

from mada_optim import MADA, param_groups

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def train(dtype: torch.dtype, scaler: torch.amp.GradScaler, epochs: int = 6) -> dict[str, Any]:
    model = mlp().to(DEVICE)
    opt = MADA(param_groups(model), lr=5e-3)
    batches, losses, skipped = shuffled(train_and_test()[0]), [], 0
    for _ in range(epochs):
        for x, y in batches:
            with torch.autocast(DEVICE, dtype):
                loss = torch.nn.functional.cross_entropy(model(x.to(DEVICE)), y.to(DEVICE))
            opt.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            before = scaler.get_scale()
            scaler.step(opt)
            scaler.update()
            skipped += scaler.get_scale() < before
            losses.append(loss.item())
    return {"losses": losses, "skipped": skipped, "coefficients": opt.coefficients()}


def main() -> dict[str, Any]:
    off = torch.amp.GradScaler(DEVICE, enabled=False)  # bf16 has the range of fp32: nothing to scale
    too_high = torch.amp.GradScaler(DEVICE, init_scale=2.0**24)  # so high that the first steps overflow and are skipped
    runs = {"bf16": train(torch.bfloat16, off), "fp16": train(torch.float16, too_high)}
    for name, run in runs.items():
        print(f"{name}: loss {run['losses'][-1]:.4f}, {run['skipped']} steps skipped, {run['coefficients']}")
    return runs


if __name__ == "__main__":
    main()
