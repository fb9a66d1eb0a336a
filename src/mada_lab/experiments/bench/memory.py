"""The size of an optimizer's state, counted on a network after two steps."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mada_lab.config.keys import RunConfig
from mada_lab.experiments.sweeps.plan import Values, fitted
from mada_lab.optimizers import catalog
from mada_lab.tasks.choice import choose
from mada_lab.tasks.open_data import open_data


def state_bytes(config: RunConfig, values: Values) -> float:
    """Bytes of an optimizer's state per parameter of the network of `config`, for the optimizer that `values` name."""
    config = fitted(config, values)
    torch.manual_seed(config.seed)
    model = choose(config, open_data(config)).model()
    optimizer = catalog.build(model, config)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    held = {x.data_ptr(): x.numel() * x.element_size() for x in _tensors(optimizer.state_dict()["state"])}
    return sum(held.values()) / sum(p.numel() for p in model.parameters())


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for x in tree.values():
            yield from _tensors(x)
