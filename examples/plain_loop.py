"""A plain training loop with AutoMuon instead of AdamW: it needs no learning rate, and nothing else changes."""

from typing import Any

import torch
from digits import accuracy, mlp, shuffled, train_and_test

from mada_optim import AutoMuon, param_groups


def main(epochs: int = 10) -> dict[str, Any]:
    train, test = train_and_test()
    model = mlp()
    opt = AutoMuon(param_groups(model), weight_decay=0.01)
    start = opt.coefficients()

    batches, losses = shuffled(train), []
    for epoch in range(epochs):
        for x, y in batches:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {losses[-1]:.4f}", opt.coefficients())
    print(f"test accuracy {accuracy(model, test):.3f}")
    return {"losses": losses, "start": start, "coefficients": opt.coefficients(), "accuracy": accuracy(model, test)}


if __name__ == "__main__":
    main()
