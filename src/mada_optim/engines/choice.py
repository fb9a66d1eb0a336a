"""Fast ways to run a rule, made from the rule's own graph and proven equal to the eager engine, and their choice.

    loops     C++, compiled on demand: loops.cpp around what emit.py writes
    tiled     torch operations on pieces that the caches hold: tiles.py, for machines without a compiler
    triton    kernels on a CUDA device: gpu.py around what triton_emit.py writes
    staged    two of these with products of matrices between, for what orthogonalises: staged.py

Where there is none of them, all runs on the eager engine.
"""

import functools

import torch
from torch import fx

from mada_optim.engines.code_writer import NoCodeError
from mada_optim.engines.cpp import build
from mada_optim.engines.cpp.emit import emit
from mada_optim.engines.cpp.engine import Loops
from mada_optim.engines.eager import largest_gradient
from mada_optim.engines.protocol import Job, Kernel
from mada_optim.engines.staged.cut import cut
from mada_optim.engines.staged.engine import Staged
from mada_optim.engines.tiled.engine import Tiled
from mada_optim.engines.tiled.lower import NoLoweringError
from mada_optim.engines.triton import emit as triton_emit
from mada_optim.engines.triton import engine as gpu
from mada_optim.graph.builder import Builder
from mada_optim.graph.derivatives import NoDerivativeError
from mada_optim.graph.differentiate import differentiate, join_factors, plain_roots, share_inverses
from mada_optim.graph.specialize import SLOT, UNTRACEABLE, Corners, reduced, specialize
from mada_optim.rule import LR, Rule

__all__ = ["Job", "Kernel", "NoKernelError", "choose"]

STATES = (None, torch.float32, torch.bfloat16)


class NoKernelError(Exception):
    """There are no loops here; the message says why."""


def choose(
    engine: str,
    rule: Rule,
    fixed: Corners,
    learned: tuple[str, ...],
    traced: bool,
    device: torch.device,
    state_dtype: torch.dtype | None,
) -> Kernel:
    """What runs `rule` with `fixed` coefficients.

    For "auto" on the CPU loops, or where they can't be compiled programs on tiles; on CUDA what Triton compiles.

    Raises:
        NoKernelError: The engine can't be had here.
    """
    if state_dtype not in STATES:
        raise NoKernelError(f"there are no loops for state_dtype={state_dtype}")
    if not (form := specialize(rule, fixed)).pointwise:
        return in_stages(engine, form, learned, traced, device, state_dtype)
    if engine == "triton" or (engine == "auto" and device.type == "cuda"):
        return triton(rule, fixed, learned, traced, device, state_dtype)
    if device.type != "cpu" or not build.SOURCE.exists():
        raise NoKernelError(f"there are no loops for {device.type}")
    if engine == "tiled":
        return tiled(rule, fixed, learned, traced, state_dtype)
    try:
        return loops(rule, fixed, learned, traced, state_dtype)
    except build.BuildError as error:
        build.warn(str(error))
        if engine == "cpu":
            raise NoKernelError(str(error)) from error
        return tiled(rule, fixed, learned, traced, state_dtype)


def in_stages(
    engine: str,
    form: Rule,
    learned: tuple[str, ...],
    traced: bool,
    device: torch.device,
    state_dtype: torch.dtype | None,
) -> Staged:
    """The kernels of a form that is pointwise but for one operation on matrices.

    Raises:
        NoKernelError: It is not pointwise otherwise, its last update is differentiated, or its slots aren't in fp32,
            whose rounding is another for each element of each slot of the whole rule.
    """
    stages = cut(form)
    if stages is None:
        raise NoKernelError(f"the rule {form.name!r} is not pointwise")
    if one_step(learned, traced):
        raise NoKernelError(f"the rule {form.name!r} is not pointwise, and its last update is to be differentiated")
    if state_dtype not in (None, torch.float32):
        raise NoKernelError(f"the rule {form.name!r} is not pointwise, and its slots are in {state_dtype}")
    head = choose(engine, stages.head, (), (), False, device, state_dtype)
    return Staged(stages, head, choose(engine, stages.tail, (), learned, traced, device, state_dtype))


def loops(rule: Rule, fixed: Corners, learned: tuple[str, ...], traced: bool, state_dtype: torch.dtype | None) -> Loops:
    """The compiled loops."""
    defines = ("STATE_BF16",) * (state_dtype is torch.bfloat16) + ("TRACED",) * traced
    library = build.load(source(rule, fixed, one_step(learned, traced)), defines)
    return Loops(rule, specialize(rule, fixed), learned, traced, library, state_dtype or torch.float32)


@functools.lru_cache(maxsize=256)
def source(rule: Rule, fixed: Corners, learned: tuple[str, ...]) -> str:
    """What `emit` writes for a rule with `fixed` coefficients.

    Raises:
        NoKernelError: The rule isn't pointwise, or does what isn't known here.
    """
    forward, backward = graphs(rule, fixed, learned)
    try:
        return emit(rule, specialize(rule, fixed), forward, backward, tuple(q for q in learned if q != LR.name))
    except NoCodeError as error:
        raise NoKernelError(f"the rule {rule.name!r} has an operation without loops: {error}") from error


def tiled(rule: Rule, fixed: Corners, learned: tuple[str, ...], traced: bool, state_dtype: torch.dtype | None) -> Tiled:
    """The programs on tiles.

    Raises:
        NoKernelError: The rule does what isn't known here, or the slots are not in fp32.
    """
    if state_dtype not in (None, torch.float32):
        raise NoKernelError(f"there are no programs on tiles for state_dtype={state_dtype}")
    forward, backward = graphs(rule, fixed, one_step(learned, traced))
    try:
        return Tiled(rule, specialize(rule, fixed), learned, traced, forward, backward, scalar_inputs(rule))
    except NoLoweringError as error:
        raise NoKernelError(f"the rule {rule.name!r} has an operation that isn't lowered: {error}") from error


def triton(
    rule: Rule,
    fixed: Corners,
    learned: tuple[str, ...],
    traced: bool,
    device: torch.device,
    state_dtype: torch.dtype | None,
) -> gpu.Triton:
    """The kernels on a CUDA device, or on the CPU under Triton's interpreter.

    Raises:
        NoKernelError: The rule does what isn't known here, or Triton can't be used on the device.
    """
    if reason := gpu.fault(device):
        if device.type == "cuda":
            build.warn(reason)
        raise NoKernelError(reason)
    dtype = state_dtype or torch.float32
    code = triton_source(rule, fixed, learned, traced, dtype)
    return gpu.Triton(rule, learned, traced, code, device, dtype)


@functools.lru_cache(maxsize=256)
def triton_source(
    rule: Rule, fixed: Corners, learned: tuple[str, ...], traced: bool, state_dtype: torch.dtype
) -> triton_emit.Code:
    """What `triton_emit.emit` writes.

    Raises:
        NoKernelError: The rule isn't pointwise, or does what isn't known here.
    """
    forward, backward = graphs(rule, fixed, one_step(learned, traced))
    limit = min(largest_gradient(dtype) for dtype in (torch.float32, state_dtype))
    what = (rule, specialize(rule, fixed), forward, backward, learned, traced)
    try:
        return triton_emit.emit(*what, str(state_dtype).removeprefix("torch."), limit)
    except NoCodeError as error:
        raise NoKernelError(f"the rule {rule.name!r} has an operation without kernels: {error}") from error


@functools.lru_cache(maxsize=256)
def graphs(rule: Rule, fixed: Corners, learned: tuple[str, ...]) -> tuple[fx.Graph, fx.Graph]:
    """The graph of a rule with `fixed` coefficients, and that of its derivatives.

    Raises:
        NoKernelError: The rule isn't pointwise, can't be traced, or can't be differentiated here.
    """
    if not specialize(rule, fixed).pointwise:
        raise NoKernelError(f"the rule {rule.name!r} is not pointwise")
    of_rule = tuple(q for q in learned if q != LR.name)
    try:
        forward = reduced(rule, fixed)
        backward = differentiate(forward, of_rule, scalar_inputs(rule), with_product=LR.name in learned)
        plain_roots(forward)
        share_inverses(build := Builder(forward, scalar_inputs(rule)), forward)
        join_factors(build, forward)
    except NoDerivativeError as error:
        raise NoKernelError(f"the rule {rule.name!r} has an operation without loops: {error}") from error
    except UNTRACEABLE as error:
        raise NoKernelError(f"the rule {rule.name!r} can't be traced") from error
    return forward, backward


def one_step(learned: tuple[str, ...], traced: bool) -> tuple[str, ...]:
    """The coefficients whose hypergradient is the derivative of the last update."""
    return tuple(q for q in learned if not (traced and q == LR.name))


def scalar_inputs(rule: Rule) -> tuple[str, ...]:
    """Names of a graph's inputs that have one number per tensor."""
    slots = (SLOT + slot.name for slot in rule.slots if slot.scalar)
    return (*rule.coefficient_names(), *rule.hyper_parameters, "t", *slots)
