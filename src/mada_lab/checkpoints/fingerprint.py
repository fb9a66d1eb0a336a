"""A digest that processes compute on their own shards: the sum over all elements of a hash of place and bits.

It doesn't depend on how tensors are sharded, and each process sends one number. A change of one element always changes
it; other changes are missed with probability 2^-64. It finds mistakes; unlike SHA-256, it can be forged.
"""

import hashlib
import json

import torch
from torch import Tensor

from mada_lab.checkpoints import row_shards
from mada_lab.checkpoints.tree import DTYPES, Tensors
from mada_lab.compute.world import World
from mada_optim.sharding import dtensors

MARK = "sum-"
CHUNK = 1 << 15  # elements that are hashed at a time
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MASK = (1 << 64) - 1
# splitmix64 (Steele, Lea, Flood 2014), with its logical shifts, in signed words
STEP, FACTORS, SHIFTS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 1), (30, 27, 31)


def is_one(digest: str) -> bool:
    """Whether a digest is a fingerprint."""
    return digest.startswith(MARK)


def fingerprint(tensors: Tensors, world: World) -> str:
    """The fingerprint of whole tensors and DTensors; the same on all processes, all of which must take part."""
    total = torch.zeros((), dtype=torch.int64, device=world.device)
    for name, x in tensors.items():
        counts, start = world.is_first, 0
        if dtensors.is_sharded(x):
            piece = row_shards.place(x)
            first, _ = row_shards.rows(x.shape[0], piece.number, piece.count)
            counts, start = piece.is_first, first * (x.numel() // max(1, x.shape[0]))
        salt = _salt(name, x)
        if counts:
            total += _sum(dtensors.local(x).detach(), start, salt).to(world.device)
        if world.is_first:
            total += salt  # so that tensors without elements count too
    return f"{MARK}{int(world.sum(total)) & MASK:016x}"


def _salt(name: str, x: Tensor) -> int:
    text = json.dumps([name, DTYPES[x.dtype], list(x.shape)]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], signed=True)


def _sum(x: Tensor, start: int, salt: int) -> Tensor:
    """The sum of the hashes of a tensor's elements, which are numbered from `start`."""
    words = x.reshape(-1).view(WORDS[x.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    steps = torch.arange(min(CHUNK, len(words)), device=x.device) * _signed(STEP)
    for i in range(0, len(words), CHUNK):
        chunk = words[i : i + CHUNK]
        total += _mixed(steps[: len(chunk)] + _signed(salt + (start + i) * STEP) + chunk).sum()
    return total


def _mixed(x: Tensor) -> Tensor:
    """Permutes 64-bit words, in place, so that each bit depends on all bits."""
    for shift, factor in zip(SHIFTS, FACTORS, strict=True):
        x.bitwise_xor_((x >> shift).bitwise_and_(MASK >> shift)).mul_(_signed(factor))
    return x


def _signed(x: int) -> int:
    """The signed 64-bit word with the bits of `x` modulo 2^64."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)
