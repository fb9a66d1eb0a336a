"""torchtitan's `OptimizersContainer` with AutoMuon: groups by patterns of names, and a flat state dict for DCP.

The container finds optimizers by name: a subclass adds AutoMuon to the names. Options of a group are in its
`optimizer_kwargs`; what the optimizer is given once, such as `learn`, is in `optimizer_factory_kwargs_by_name`.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig

from mada_optim import AutoMuon, LearnedLR

WORDS, WIDTH = 32, 16


class Optimizers(OptimizersContainer):
    """torchtitan's container, which also knows AutoMuon."""

    @staticmethod
    def _resolve_optimizer_factory(name: str) -> Callable[..., torch.optim.Optimizer]:
        return AutoMuon if name == "AutoMuon" else OptimizersContainer._resolve_optimizer_factory(name)


def config() -> OptimizersContainer.Config:
    def group(pattern: str, **options: object) -> ParamGroupConfig:
        return ParamGroupConfig(pattern=pattern, optimizer_name="AutoMuon", optimizer_kwargs={"lr": 3e-3, **options})

    hidden = group(r"layers\..*weight$", matrix=True)
    norms = group(r"norm", matrix=False, weight_decay=0.0)
    rest = group(r".*", matrix=False)
    once = {"AutoMuon": {"learn": LearnedLR(start=10)}}
    return OptimizersContainer.Config(param_groups=[hidden, norms, rest], optimizer_factory_kwargs_by_name=once)


class Net(nn.Module):
    """A small model with torchtitan's names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tok_embeddings, self.norm = nn.Embedding(WORDS, WIDTH), nn.RMSNorm(WIDTH)
        self.layers = nn.ModuleDict({str(i): nn.Linear(WIDTH, WIDTH, bias=False) for i in range(2)})
        self.output = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tok_embeddings(ids)
        for layer in self.layers.values():
            x = x + torch.tanh(layer(self.norm(x)))
        logits: torch.Tensor = self.output(self.norm(x))
        return logits


def train(model: Net, optimizers: Optimizers, steps: range) -> list[float]:
    losses = []
    for step in steps:
        ids = torch.randint(WORDS, (64,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(ids), (3 * ids) % WORDS)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
        losses.append(loss.item())
    return losses


def main() -> dict[str, Any]:
    model = Net()
    optimizers = Optimizers(config(), model_parts=[model])
    losses = train(model, optimizers, range(20))

    resumed = Net()
    resumed.load_state_dict(model.state_dict())
    again = Optimizers(config(), model_parts=[resumed])
    again.load_state_dict(copy.deepcopy(optimizers.state_dict()))

    losses += train(model, optimizers, range(20, 40))
    train(resumed, again, range(20, 40))
    (opt,), (opt_again,) = optimizers, again
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}", opt.coefficients())
    return {"losses": losses, "model": model, "resumed": resumed, "opt": opt, "opt_again": opt_again}


if __name__ == "__main__":
    main()
