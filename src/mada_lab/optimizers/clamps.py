"""Clamps learned coefficients to intervals every few steps, as the paper's scripts do when they write a log line."""

from collections.abc import Mapping

from mada_lab.config import by_coefficient
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_optim import HyperOptimizer
from mada_optim.rule import LR, Interval


def is_due(config: RunConfig, step: int) -> bool:
    """Whether coefficients are clamped after optimizer step `step`, counted from 1."""
    return config.clamps is not None and (step - 1) % config.clamp_interval == 0


def clamp(config: RunConfig, optimizer: HyperOptimizer) -> None:
    """Clamps the learned coefficients to the intervals of `clamps`, without a read from the device."""
    for name, (low, high) in by_coefficient.values_of(config, "clamps").items():
        for group in optimizer.param_groups:
            group[name] = group[name].clamp(low, high)


def require_inside(config: RunConfig, intervals: Mapping[str, Interval]) -> None:
    """Raises ConfigError unless `clamps` has coefficients of the rule, inside the `intervals` that they learn in."""
    where = f"optimizer {config.optimizer}, in key clamps"
    for name, (low, high) in by_coefficient.values_of(config, "clamps").items():
        if name == LR.name:
            refusal = "expected coefficients of the rule, got lr, which is a factor on the schedule"
            raise ConfigError(f"{where}: {refusal}; leave it out, and set its bounds")
        if low > high or low not in intervals[name] or high not in intervals[name]:
            refusal = f"expected low <= high inside {intervals[name]}, got {name}={low}:{high}"
            raise ConfigError(f"{where}: {refusal}; choose ends inside it")
