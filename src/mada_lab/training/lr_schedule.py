"""The learning rate over time: linear warm-up, then a cosine (Loshchilov and Hutter, ICLR 2017) down to a floor."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mada_lab.config import parsing
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError

FLOOR = 0.1  # the last learning rate over the peak, where min_lr is None


def resolved(config: RunConfig, recorded: Mapping[str, Any] | None = None) -> RunConfig:
    """`config` with the number of warm-up steps that its `warmup_iters` stands for.

    Where None is given, a resumed run keeps the number in `recorded`, its configuration until now. Raises ConfigError
    if that is more than max_iters.
    """
    kept = (recorded or {}).get("warmup_iters") if config.warmup_iters is None else None
    if kept is not None:
        values = {"max_iters": config.max_iters, "warmup_iters": kept}
        config = replace(
            config, warmup_iters=parsing.from_values(values, "the run that is resumed", type(config)).warmup_iters
        )
    return replace(config, warmup_iters=warmup(config))


def warmup(config: RunConfig) -> int:
    """The number of warm-up steps: as given, or the usual number, but at most a fifth of the run."""
    return min(config.usual_warmup, config.max_iters // 5) if config.warmup_iters is None else config.warmup_iters


def learning_rate(config: RunConfig, peak: float, step: int, processes: int = 1) -> float:
    """The learning rate of optimizer step `step`, the first being 1, of a run on so many processes.

    It rises linearly to `peak` at step `warmup_iters`, and falls to `min_lr` at step `lr_decay_iters`.
    """
    now, low, rise = position(config, step, processes), lowest(config, peak), warmup(config)
    if rise > 0 and now <= rise:
        return peak * now / rise
    if not config.decay_lr:
        return peak
    end = config.max_iters if config.lr_decay_iters is None else config.lr_decay_iters
    if now >= end:
        return low
    progress = (now - rise) / (end - rise)
    return low + 0.5 * (1 + math.cos(math.pi * progress)) * (peak - low)


def position(config: RunConfig, step: int, processes: int) -> float:
    """The position of step `step` in the schedule, in steps: its number, or that of its last forward pass."""
    if config.lr_counts == "steps":
        return step
    passes = config.gradient_accumulation_steps // processes
    first = passes if config.first_accumulation is None else config.first_accumulation // processes
    return (first + passes * (step - 1) - 1) / passes


def lowest(config: RunConfig, peak: float) -> float:
    """The learning rate that the schedule ends at."""
    return FLOOR * peak if config.min_lr is None else config.min_lr


def require_fall(config: RunConfig, peak: float) -> None:
    """Raises ConfigError if `min_lr` is above the peak."""
    if config.decay_lr and config.min_lr is not None and config.min_lr > peak:
        refusal = f"expected at most the peak learning rate {peak:g}, got {config.min_lr}"
        raise ConfigError(f"configuration, key min_lr: {refusal}; lower it, or leave it out for a tenth of the peak")
