"""Every check is run with each engine, as the contracts are."""

import torch

from tests.contract.conftest import engine

__all__ = ["engine"]


def pytest_collection_modifyitems(config, items):
    """A preset without loops runs on the eager engine either way, and once is enough."""
    twice = {item: None for item in items if is_redundant(getattr(item, "callspec", None))}
    items[:] = [item for item in items if item not in twice]
    config.hook.pytest_deselected(items=list(twice))


def is_redundant(callspec):
    """Whether this is the eager run of a preset (by itself, or in a case) whose other run is eager too."""
    params = callspec.params if callspec else {}
    info = params.get("info", getattr(params.get("case"), "info", None))
    if info is None or params.get("engine") != "eager":
        return False
    return info.optim_cls([torch.nn.Parameter(torch.ones(1))]).engine == "eager"
