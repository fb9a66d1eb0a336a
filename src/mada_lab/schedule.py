"""The learning rate over time: linear warm-up, then a cosine (Loshchilov and Hutter, ICLR 2017) down to a floor."""

import math

from mada_lab.config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of optimizer step `step`, the first being 1.

    It rises linearly to `learning_rate` at step `warmup_iters`, and falls to `min_lr` at step `lr_decay_iters`.
    """
    if step <= config.warmup_iters:
        return config.learning_rate * step / config.warmup_iters
    if not config.decay_lr:
        return config.learning_rate
    end = config.max_iters if config.lr_decay_iters is None else config.lr_decay_iters
    if step >= end:
        return config.min_lr
    progress = (step - config.warmup_iters) / (end - config.warmup_iters)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.learning_rate - config.min_lr)
