"""The description of a run's optimizer in its record, which reports make a sentence of."""

from typing import Any

from torch.optim.optimizer import Optimizer

from mada_lab.config.keys import RunConfig
from mada_lab.optimizers import catalog
from mada_optim import HyperOptimizer


def described(config: RunConfig, optimizer: Optimizer) -> dict[str, Any]:
    """The description of a fresh optimizer, as `method` in a manifest.

    Returns:
        `description`: as declared beside the optimizer's name; `learned`: names of its learned coefficients; `lr`: its
        peak learning rates, one for all groups or several; `lr_computed`: whether they were computed from the shapes of
        the matrices; `betas`: as given, if it has two.
    """
    groups = optimizer.param_groups
    return {
        "description": catalog.KNOWN[config.optimizer].description,
        "learned": list(optimizer.learned) if isinstance(optimizer, HyperOptimizer) else [],
        "lr": sorted({float(group["lr"]) for group in groups}),
        "lr_computed": catalog.learning_rate(config) == catalog.AUTO,
        **_betas(groups[0]),
    }


def _betas(group: dict[str, Any]) -> dict[str, list[float]]:
    named = [group[name] for name in ("beta1", "beta2") if name in group]
    betas = [float(x) for x in group.get("betas", named)]
    return {"betas": betas} if len(betas) == 2 else {}
