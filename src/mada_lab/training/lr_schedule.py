"""The learning rate over time: linear warm-up, then a cosine (Loshchilov and Hutter, ICLR 2017) down to a floor."""

import math

from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError

FLOOR = 0.1  # the last learning rate over the peak, where min_lr is None


def learning_rate(config: RunConfig, peak: float, step: int, processes: int = 1) -> float:
    """The learning rate of optimizer step `step`, the first being 1, of a run on so many processes.

    It rises linearly to `peak` at step `warmup_iters`, and falls to `min_lr` at step `lr_decay_iters`.
    """
    now, low = position(config, step, processes), lowest(config, peak)
    if config.warmup_iters > 0 and now <= config.warmup_iters:
        return peak * now / config.warmup_iters
    if not config.decay_lr:
        return peak
    end = config.max_iters if config.lr_decay_iters is None else config.lr_decay_iters
    if now >= end:
        return low
    progress = (now - config.warmup_iters) / (end - config.warmup_iters)
    return low + 0.5 * (1 + math.cos(math.pi * progress)) * (peak - low)


def position(config: RunConfig, step: int, processes: int) -> float:
    """Where step `step` stands in the schedule, in steps: at its number, or as far as its last forward pass says."""
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
        what = f"expected at most the peak learning rate {peak:g}, got {config.min_lr}"
        raise ConfigError(f"configuration, key min_lr: {what}; lower it, or leave it out for a tenth of the peak")
