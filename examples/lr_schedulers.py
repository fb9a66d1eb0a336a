"""Learning-rate schedulers: warm-up and cosine, one cycle, and reduce on plateau.

Schedulers work unchanged: they write `lr` into the parameter groups. The hypergradient uses the learning rate of its
update, so the hyper-step needs no adjustment. Pass `cycle_momentum=False` to `OneCycleLR` and `CyclicLR`, which would
also cycle the momentum, since it is learned here.
"""

from collections.abc import Callable
from typing import Any

import torch
from digits import mlp, shuffled, train_and_test
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from mada_optim import MADA, param_groups

EPOCHS = 6
STEPS = EPOCHS * 24  # 24 batches in an epoch


def warmup_then_cosine(opt: MADA) -> LRScheduler:
    warmup = lr_scheduler.LinearLR(opt, start_factor=0.1, total_iters=20)
    return lr_scheduler.SequentialLR(opt, [warmup, lr_scheduler.CosineAnnealingLR(opt, STEPS - 20)], milestones=[20])


def one_cycle(opt: MADA) -> LRScheduler:
    return lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=STEPS, cycle_momentum=False)


def on_plateau(opt: MADA) -> LRScheduler:
    return lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=10)


def train(make_scheduler: Callable[[MADA], LRScheduler]) -> dict[str, Any]:
    model = mlp()
    opt = MADA(param_groups(model), lr=5e-3)
    scheduler = make_scheduler(opt)
    batches, losses, lrs = shuffled(train_and_test()[0]), [], []
    for _ in range(EPOCHS):
        for x, y in batches:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            lrs.append(opt.param_groups[0]["lr"])
            opt.step()
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(loss.item())
            else:
                scheduler.step()
            losses.append(loss.item())
    return {"losses": losses, "lrs": lrs, "coefficients": opt.coefficients()}


def main() -> dict[str, Any]:
    runs = {make.__name__: train(make) for make in (warmup_then_cosine, one_cycle, on_plateau)}
    for name, run in runs.items():
        shown = ", ".join(f"{lr:.5f}" for lr in run["lrs"][::36])
        print(f"{name}: lr {shown}; loss {run['losses'][-1]:.4f}; {run['coefficients']}")
    return runs


if __name__ == "__main__":
    main()
