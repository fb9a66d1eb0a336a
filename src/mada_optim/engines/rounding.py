"""Stochastic rounding to bf16: up or down at random, in proportion to the distance, so that the mean is exact.

An average whose new share is below half of its last digit (for beta = .999, every share below a quarter of it) would
never move if it were rounded to nearest. The random bits are a function of step, slot and element: a run that is
repeated or resumed has the same ones, and the compiled loops (kernels/loops.cpp) too.
"""

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def random_bits(like: Tensor, t: Tensor, slot: int) -> Tensor:
    """32 random bits for each element of `like`, in int64: a multiplicative hash with murmur3's finalizer."""
    seed = (t.to(torch.int64) * 0x2545F491 + (slot + 1) * 0x9E3779B1) & MASK
    x = torch.arange(like.numel(), device=like.device).reshape(like.shape)
    x = (x * 0x9E3779B9 + seed) & MASK
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & MASK
    return x ^ (x >> 16)


def narrowed(x: Tensor, dtype: torch.dtype, t: Tensor, slot: int) -> Tensor:
    """`x` in the dtype that a slot is stored in: rounded stochastically from fp32 to bf16, to nearest otherwise."""
    if (x.dtype, dtype) != (torch.float32, torch.bfloat16):
        return x.to(dtype)
    bits = x.contiguous().view(torch.int32).to(torch.int64) & MASK
    rounded = (bits + (random_bits(x, t, slot) & 0xFFFF)) >> 16
    return rounded.to(torch.int32).to(torch.int16).view(torch.bfloat16)
