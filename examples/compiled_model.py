"""torch.compile of the model; the optimizer is not compiled.

The coefficients are not part of the model's graph, so learning them recompiles nothing: from the second epoch on, a
recompilation would raise an error. `backend="inductor"`, torch's default, runs faster but compiles for longer;
"aot_eager" shows the same in seconds.
"""

from collections.abc import Callable
from typing import Any

import torch
from digits import accuracy, mlp, shuffled, train_and_test
from torch import Tensor
from torch.utils.data import DataLoader

from mada_optim import MADA, param_groups


def train_epoch(model: Callable[[Tensor], Tensor], opt: MADA, batches: DataLoader[tuple[Tensor, ...]]) -> list[float]:
    losses = []
    for x, y in batches:
        loss = torch.nn.functional.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def main(backend: str = "aot_eager", epochs: int = 6) -> dict[str, Any]:
    train, test = train_and_test()
    model = mlp()
    compiled = torch.compile(model, backend=backend)
    opt = MADA(param_groups(model), lr=5e-3)
    batches = shuffled(train, batch_size=60)  # 1500 = 25 x 60: no last batch of another shape

    losses = train_epoch(compiled, opt, batches)
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(epochs - 1):
            losses += train_epoch(compiled, opt, batches)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}", opt.coefficients())
    return {"losses": losses, "coefficients": opt.coefficients(), "accuracy": accuracy(model, test)}


if __name__ == "__main__":
    main()
