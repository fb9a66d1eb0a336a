"""Stochastic rounding: its random bits, and weights in bf16 and fp16.

Rounded to nearest, a weight stays where it is if the step is below half of its last digit: in bf16, every step below
1/512 of the weight. Rounded stochastically, the weight moves to the next number with the probability of the step's
share of the gap, so it moves by the step on average.
"""

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
ELEMENT, STREAM, STEP = 0x9E3779B9, 0x9E3779B1, 0x2545F491  # odd, so that multiples modulo 2^32 differ
#: The dtypes of weights that are rounded stochastically, with the bits of fp32 that their normal numbers drop.
DROPPED = {torch.bfloat16: 16, torch.float16: 13}
#: The smallest normal number of fp16, and the inverse of the gap between smaller ones.
NORMAL, PER_GAP = 2.0**-14, 2.0**24


def stream(slot: int, first: int = 0) -> int:
    """What tells the random bits of slots, weights and shards apart, in [0, 2^32).

    Slots have the numbers 0, 1, ...; the weights of the optimizer's parameter n have -1 - n. `first` is the place of a
    shard's first element in the whole, so that shards have the bits of the whole.
    """
    return ((slot + 1) * STREAM + first * ELEMENT) & MASK


def bits_of_stream(like: Tensor, t: Tensor, of: int) -> Tensor:
    """32 random bits for each element of `like`, in int64: a multiplicative hash with murmur3's finalizer.

    They are a function of element, step and stream. The C++ loops and the Triton kernels have the same, and so has a
    resumed run.
    """
    seed = (t.to(torch.int64) * STEP + of) & MASK
    x = torch.arange(like.numel(), device=like.device).reshape(like.shape)
    x = (x * ELEMENT + seed) & MASK
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & MASK
    return x ^ (x >> 16)


def random_bits(like: Tensor, t: Tensor, slot: int) -> Tensor:
    """`bits_of_stream` of a slot."""
    return bits_of_stream(like, t, stream(slot))


def stochastic(x: Tensor, dtype: torch.dtype, t: Tensor, of: int) -> Tensor:
    """New weights `x`, fp32, in `dtype`: rounded stochastically to bf16 and fp16, to nearest otherwise.

    Each goes to one of its two neighbors, so that the mean is `x`: exactly in bf16 and for normal numbers of fp16,
    within 2^-24 of a gap for smaller ones. A number of `dtype` stays. Beyond the largest one, infinity and NaN
    included, rounding is to nearest. The random bits are those of the step `t` and of a stream.
    """
    if dtype not in DROPPED:
        return x.to(dtype)
    random, dropped = bits_of_stream(x, t, of), (1 << DROPPED[dtype]) - 1
    bits = x.contiguous().view(torch.int32).to(torch.int64) & MASK
    rounded = ((bits + (random & dropped)) & (MASK ^ dropped)).to(torch.int32).view(torch.float32)
    if dtype is torch.float16:
        gaps = x.abs() * PER_GAP
        below = gaps.floor()
        up = (random >> 8).to(torch.float32) / PER_GAP < gaps - below
        rounded = torch.where(x.abs() < NORMAL, ((below + up) / PER_GAP).copysign(x), rounded)
    return torch.where(x.abs() <= torch.finfo(dtype).max, rounded, x).to(dtype)
