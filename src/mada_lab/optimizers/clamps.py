"""Coefficients that are set into intervals now and then, as the paper's scripts do it when they write a log line."""

from collections.abc import Mapping

from mada_lab.config import by_coefficient
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_optim import HyperOptimizer
from mada_optim.rule import LR, Interval


def is_due(config: RunConfig, step: int) -> bool:
    """Whether coefficients are set after optimizer step `step`, the first being 1."""
    return config.clamps is not None and (step - 1) % config.clamp_interval == 0


def clamp(config: RunConfig, optimizer: HyperOptimizer) -> None:
    """Sets the learned coefficients into the intervals of `clamps`. Reads nothing from the device."""
    for name, (low, high) in _clamps(config).items():
        for group in optimizer.param_groups:
            group[name] = group[name].clamp(low, high)


def require_inside(config: RunConfig, intervals: Mapping[str, Interval]) -> None:
    """Raises ConfigError unless `clamps` is of coefficients of the rule, inside the `intervals` that they learn in."""
    where = f"optimizer {config.optimizer}, in key clamps"
    for name, (low, high) in _clamps(config).items():
        if name == LR.name:
            what = "expected coefficients of the rule, got lr, which is a factor on the schedule"
            raise ConfigError(f"{where}: {what}; leave it out, and bound it by bounds")
        if low > high or low not in intervals[name] or high not in intervals[name]:
            what = f"expected low <= high inside {intervals[name]}, got {name}={low}:{high}"
            raise ConfigError(f"{where}: {what}; pass ends inside it")


def _clamps(config: RunConfig) -> dict[str, tuple[float, float]]:
    return {} if config.clamps is None else by_coefficient.intervals(config.clamps)
