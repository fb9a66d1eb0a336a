"""Compiled loops, written from a rule's own graph and proven equal to the eager engine, and their choice.

Without loops.cpp there are none, and all runs on the eager engine.
"""

import functools

import torch

from mada_optim.builder import Builder
from mada_optim.differentiate import differentiate, plain_roots, share_inverses
from mada_optim.kernels import build
from mada_optim.kernels.cpu import Kernel
from mada_optim.kernels.emit import NoCodeError, emit
from mada_optim.partials import NoDerivativeError
from mada_optim.spec import LR, Rule
from mada_optim.specialize import SLOT, UNTRACEABLE, Corners, reduced, specialize

__all__ = ["Kernel", "NoKernelError", "choose"]

STATES = (None, torch.float32, torch.bfloat16)


class NoKernelError(Exception):
    """There are no loops here; the message says why."""


def choose(
    rule: Rule, fixed: Corners, learned: tuple[str, ...], device: torch.device, state_dtype: torch.dtype | None
) -> Kernel:
    """The loops for `rule` with `fixed` coefficients.

    Raises:
        NoKernelError: There are none, or they can't be compiled.
    """
    if device.type != "cpu" or not build.SOURCE.exists():
        raise NoKernelError(f"there are no loops for {device.type}")
    if state_dtype not in STATES:
        raise NoKernelError(f"there are no loops for state_dtype={state_dtype}")
    header = source(rule, fixed, learned)
    bf16_state = state_dtype is torch.bfloat16
    try:
        library = build.load(header, bf16_state)
    except build.BuildError as error:
        build.warn(str(error))
        raise NoKernelError(str(error)) from error
    return Kernel(rule, specialize(rule, fixed), learned, library, state_dtype or torch.float32)


@functools.lru_cache(maxsize=256)
def source(rule: Rule, fixed: Corners, learned: tuple[str, ...]) -> str:
    """What `emit` writes for a rule with `fixed` coefficients.

    Raises:
        NoKernelError: The rule isn't pointwise, or does what isn't known here.
    """
    if not rule.pointwise:
        raise NoKernelError(f"the rule {rule.name!r} is not pointwise")
    scalar_slots = [SLOT + slot.name for slot in rule.slots if slot.scalar]
    scalars = (*rule.coefficient_names(), *rule.hyper_parameters, "t", *scalar_slots)
    of_rule = tuple(q for q in learned if q != LR.name)
    try:
        forward = reduced(rule, fixed)
        backward = differentiate(forward, of_rule, scalars, with_product=LR.name in learned)
        plain_roots(forward)
        share_inverses(Builder(forward, scalars), forward)
        return emit(rule, specialize(rule, fixed), forward, backward, of_rule)
    except (NoDerivativeError, NoCodeError) as error:
        raise NoKernelError(f"the rule {rule.name!r} has an operation without loops: {error}") from error
    except UNTRACEABLE as error:
        raise NoKernelError(f"the rule {rule.name!r} can't be traced") from error
