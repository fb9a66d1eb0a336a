"""What the optimizer of a run is, for its record: reports make a sentence of it, and need to know no optimizer."""

from typing import Any

from torch.optim.optimizer import Optimizer

from mada_lab.config.keys import RunConfig
from mada_lab.optimizers import catalog
from mada_lab.optimizers.baselines import BASELINES
from mada_optim import HyperOptimizer


def described(config: RunConfig, optimizer: Optimizer) -> dict[str, Any]:
    """The description of a fresh optimizer, as `method` in a manifest.

    Returns:
        `description`: what is declared beside the optimizer's name; `learned`: names of the coefficients that it
        learns; `lr`: its peak learning rates, one for all groups or several; `lr_computed`: whether they were computed
        from the shapes of the matrices; `betas`: as given, if it has two.
    """
    groups, known = optimizer.param_groups, {**catalog.OURS, **BASELINES}
    return {
        "description": known[config.optimizer].description,
        "learned": list(optimizer.learned) if isinstance(optimizer, HyperOptimizer) else [],
        "lr": sorted({float(group["lr"]) for group in groups}),
        "lr_computed": catalog.learning_rate(config) == catalog.AUTO,
        **_betas(groups[0]),
    }


def _betas(group: dict[str, Any]) -> dict[str, list[float]]:
    named = [group[name] for name in ("beta1", "beta2") if name in group]
    betas = [float(x) for x in group.get("betas", named)]
    return {"betas": betas} if len(betas) == 2 else {}
