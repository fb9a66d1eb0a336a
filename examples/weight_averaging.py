"""Averages of the weights: stochastic weight averaging with `SWALR` and `update_bn`, and an exponential average.

`SWALR` writes its learning rate into the groups like any scheduler; the learned factor multiplies it. The averages are
copies, which a step of the optimizer doesn't touch.
"""

from typing import Any

import torch
from digits import accuracy, shuffled, train_and_test
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from mada_optim import AutoMuon, param_groups


def net() -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def main(epochs: int = 6, averaged: int = 3) -> dict[str, Any]:
    train, test = train_and_test()
    model = net()
    opt = AutoMuon(param_groups(model))
    swa = AveragedModel(model)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98), use_buffers=True)
    scheduler = SWALR(opt, swa_lr=opt.param_groups[0]["lr"] / 4, anneal_epochs=2)

    batches, losses, lrs = shuffled(train), [], []
    for epoch in range(epochs):
        for x, y in batches:
            loss = nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            ema.update_parameters(model)
            losses.append(loss.item())
        lrs.append((opt.param_groups[0]["lr"], opt.coefficients()["lr"]))
        if epoch >= epochs - averaged:
            swa.update_parameters(model)
            scheduler.step()
    update_bn(batches, swa)  # the averaged weights have other batch statistics
    scores = {name: accuracy(x, test) for name, x in {"last": model, "swa": swa, "ema": ema}.items()}
    print(scores, lrs)
    return {"losses": losses, "scores": scores, "lrs": lrs, "opt": opt, "model": model, "swa": swa, "ema": ema}


if __name__ == "__main__":
    main()
