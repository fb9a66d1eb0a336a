"""Slots in 8 bits: blocks of elements, each with codes of one byte and one scale (Dettmers et al., arXiv 2110.02861).

A code names a value between -1 and 1 on a dynamic scale, which is fine near 1 and reaches far down: half of the values
are in the last decade, a quarter in the one below, and so on. A block's scale is its largest absolute value, which is
therefore exact. Packing what was unpacked gives the same bits.

Slots that are never negative (`Slot.non_negative`), as averages of squares, use all codes for positive values. The
dynamic scale is that of their square roots, which reach as far down as gradients do. A positive value never becomes 0:
an update that is divided by it would explode.

A state keeps the codes under the slot's name, in the parameter's shape, and the scales under the name with "_scale",
one for each block of the flattened parameter. Both are plain tensors. Small parameters keep their slots in fp32.
"""

import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim.engines.program import CODES
from mada_optim.rule import Rule

BLOCK = 256
SUFFIX = "_scale"
MIDDLE = 128  # the code of 0 of signed values


class Scale(NamedTuple):
    """A dynamic scale on a device."""

    values: Tensor  # the magnitudes, fp32, ascending from 0 to 1
    floors: Tensor  # by the upper half of a number's bits: the largest magnitude that isn't above it, int32
    lowest: float  # the smallest scale of a block, so that no value is subnormal
    signed: bool


def magnitudes(signed: bool) -> list[float]:
    """The magnitudes of a dynamic scale, ascending from 0 to 1: 128 signed, or 256 never negative."""
    decades = 7 if signed else 8
    roots = [10.0 ** (i - decades) * (1 + 9 * (k + 1) / 2**i) for i in range(decades) for k in range(2**i)]
    return [0.0, *(x if signed else x * x for x in roots)]


@functools.lru_cache(maxsize=64)
def scale_on(device: torch.device, signed: bool) -> Scale:
    values = torch.tensor(magnitudes(signed), dtype=torch.float32)
    starts = torch.arange(0x3F80 + 1, dtype=torch.int32).bitwise_left_shift(16).view(torch.float32)
    floors = torch.searchsorted(values, starts, right=True).to(torch.int32) - 1
    lowest = torch.finfo(torch.float32).tiny / float(values[1])
    return Scale(values.to(device), floors.to(device), lowest, signed)


def scale_of(rule: Rule, name: str, device: torch.device) -> Scale:
    """The dynamic scale of a slot, or of the kept gradient."""
    return scale_on(device, name not in {slot.name for slot in rule.slots if slot.non_negative})


def new(p: Tensor, name: str, value: float, scale: Scale) -> dict[str, Tensor]:
    """Codes and scales of a slot whose elements are all `value`, which is not negative."""
    top = len(scale.values) - 1 if value else 0
    codes = torch.full_like(p, top + MIDDLE * scale.signed, dtype=CODES)
    blocks = math.ceil(p.numel() / BLOCK)
    return {name: codes, name + SUFFIX: torch.full((blocks,), max(value, scale.lowest), device=p.device)}


def pack(x: Tensor, scale: Scale, bits: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The codes of `x`, uint8 in its shape, and the scales, fp32, one for each block.

    Values are rounded to nearest; with `bits`, 24 random bits for each element, at random and right on average.
    """
    flat = x.float().reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1).clamp(min=scale.lowest) if flat.numel() else flat.new_empty(0)
    relative = (blocks / scales[:, None]).view(-1)[: flat.numel()]
    # NaN, in a step that will be skipped, counts as 1
    codes = _codes(torch.fmin(relative.abs(), relative.new_ones(())), scale, None if bits is None else bits.reshape(-1))
    if scale.signed:
        codes = torch.where(relative < 0, MIDDLE - codes, MIDDLE + codes)
    return codes.to(CODES).view(x.shape), scales


def _codes(y: Tensor, scale: Scale, bits: Tensor | None) -> Tensor:
    """The numbers of the magnitudes that `y`, between 0 and 1, is rounded to, int32."""
    values, last = scale.values, len(scale.values) - 1
    low = scale.floors.index_select(0, y.view(torch.int32) >> 16)
    # an interval of `floors` has one magnitude at most
    low = low + (y >= values.index_select(0, (low + 1).clamp(max=last))).int()
    low = low.clamp(max=last - 1)
    below, above = values.index_select(0, low), values.index_select(0, low + 1)
    part = (y - below) / (above - below)
    codes = low + (part > (0.5 if bits is None else bits * 2.0**-24)).int()
    return codes if scale.signed else torch.maximum(codes, (y > 0).int())


def unpack(codes: Tensor, scales: Tensor, scale: Scale) -> Tensor:
    """The values in fp32, in the shape of the codes."""
    flat = codes.reshape(-1).int()
    if scale.signed:
        flat = flat - MIDDLE
        relative = scale.values.index_select(0, flat.abs()) * flat.sign()
    else:
        relative = scale.values.index_select(0, flat)
    whole = torch.nn.functional.pad(relative, (0, -flat.numel() % BLOCK)).view(-1, BLOCK) * scales[:, None]
    return whole.view(-1)[: flat.numel()].view(codes.shape)


def read(state: Mapping[str, Tensor], name: str, rule: Rule) -> Tensor:
    """An entry of a state: unpacked if it is packed, else as it is."""
    x = state[name]
    return unpack(x, state[name + SUFFIX], scale_of(rule, name, x.device)) if x.dtype is CODES else x


def packed(state: Mapping[str, Tensor], names: Collection[str], rule: Rule) -> dict[str, Tensor]:
    """A state with these entries packed, to nearest."""
    with_scales = dict[str, Tensor]()
    for name, x in state.items():
        if name in names:
            with_scales[name], with_scales[name + SUFFIX] = pack(x, scale_of(rule, name, x.device))
        else:
            with_scales[name] = x
    return with_scales


def unpacked(state: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    """A saved state with its packed entries in fp32, without scales. Raises ValueError if scales don't fit."""
    names = {name for name, x in state.items() if isinstance(x, Tensor) and x.dtype is CODES}
    for name in names:
        if fault := fault_of(state, name):
            raise ValueError(f"state dict, state of a parameter, {name!r}: {fault}; save it anew")
    scales = {name + SUFFIX for name in names}
    return {name: read(state, name, rule) if name in names else x for name, x in state.items() if name not in scales}


def fault_of(state: Mapping[str, Any], name: str) -> str | None:
    """What is wrong with the scales of an entry; None if it isn't packed, or nothing is."""
    if state[name].dtype is not CODES:
        return None
    scales, blocks = state.get(name + SUFFIX), math.ceil(state[name].numel() / BLOCK)
    if not isinstance(scales, Tensor) or scales.shape != (blocks,) or scales.dtype is not torch.float32:
        got = f"{scales.dtype} of shape {tuple(scales.shape)}" if isinstance(scales, Tensor) else "no such tensor"
        return f"expected {name + SUFFIX!r}, the scales of its {blocks} blocks in torch.float32, got {got}"
    return None
