"""Chooses the engine of a program, and generates its code from the rule's graph. Every engine must match `eager`.

    cpp       C++ loops, compiled on demand: loops.cpp includes what cpp/emit.py writes
    tiled     torch operations on pieces that fit into the caches, for machines without a compiler
    triton    kernels on a CUDA device
    staged    for rules that orthogonalize: one of these before and after the products of matrices

Tensors that none of them takes run on the eager engine.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import fx

from mada_optim.engines.cpp import build
from mada_optim.engines.cpp.emit import emit
from mada_optim.engines.cpp.engine import Loops
from mada_optim.engines.eager import largest_gradient
from mada_optim.engines.program import CODES, Program
from mada_optim.engines.protocol import Kernel
from mada_optim.engines.staged.cut import cut
from mada_optim.engines.staged.engine import Staged
from mada_optim.engines.tiled.engine import Tiled
from mada_optim.engines.triton import emit as triton_emit
from mada_optim.engines.triton import engine as gpu
from mada_optim.graph.builder import Builder, UnknownOperationError
from mada_optim.graph.differentiate import differentiate, join_factors, plain_roots, share_inverses
from mada_optim.graph.specialize import UNTRACEABLE, reduced
from mada_optim.sharding.replicated import Sharing

SLOT_DTYPES = (None, torch.float32, torch.bfloat16)


class NoKernelError(Exception):
    """No engine but the eager one can run the program; the message says why."""


def choose(engine: str, program: Program, sharing: Sharing | None = None) -> Kernel:
    """The kernel that runs `program`. Raises NoKernelError if the engine can't run it here.

    "auto" is Triton on CUDA; on the CPU it is the C++ loops, or the tiled engine if they can't be compiled.
    `sharing` has the processes that divide matrices among them.
    """
    if program.state_dtype is CODES:
        raise NoKernelError("there are no loops for slots in 8 bits")
    if program.state_dtype not in SLOT_DTYPES:
        raise NoKernelError(f"there are no loops for state_dtype={program.state_dtype}")
    if not program.form.pointwise:
        return in_stages(engine, program, sharing)
    if engine == "triton" or (engine == "auto" and program.device.type == "cuda"):
        return triton(program)
    if program.device.type != "cpu" or not build.SOURCE.exists():
        raise NoKernelError(f"there are no loops for {program.device.type}")
    if engine == "tiled":
        return tiled(program)
    try:
        return loops(program)
    except build.BuildError as error:
        build.warn(str(error))
        if engine == "cpu":
            raise NoKernelError(str(error)) from error
        return tiled(program)


def in_stages(engine: str, program: Program, sharing: Sharing | None) -> Staged:
    """The kernels of a rule with one operation on matrices. Raises NoKernelError if it has others, or isn't in fp32.

    Stochastic rounding depends on an element's place in the whole slot. The last update can't be differentiated.
    """
    name, stages = program.form.name, cut(program.form)
    if stages is None:
        raise NoKernelError(f"the rule {name!r} is not pointwise")
    if program.keeps_last_update:
        raise NoKernelError(f"the rule {name!r} is not pointwise, and its last update is to be differentiated")
    if program.state_dtype not in (None, torch.float32):
        raise NoKernelError(f"the rule {name!r} is not pointwise, and its slots are in {program.state_dtype}")
    head = replace(program, rule=stages.head, fixed=(), learned=(), traced=False)
    tail = replace(program, rule=stages.tail, fixed=())
    return Staged(stages, head, choose(engine, head), tail, choose(engine, tail), sharing)


def loops(program: Program) -> Loops:
    """The compiled loops. Raises BuildError or NoKernelError."""
    code = source(program)
    defines = ("STATE_BF16",) * (program.state_dtype is torch.bfloat16) + ("TRACED",) * program.traced
    of_weights = {torch.bfloat16: ("WEIGHT_BF16",), torch.float16: ("WEIGHT_FP16",)}
    return Loops(program, lambda dtype: build.load(code, (*defines, *of_weights.get(dtype, ()))))


@functools.lru_cache(maxsize=256)
def source(program: Program) -> str:
    """The C++ code of a program, `rule.h`. Raises NoKernelError if an operation can't be written."""
    with refusing_unknown_operations(program):
        return emit(program, *graphs(program))


def tiled(program: Program) -> Tiled:
    """The program on tiles. Raises NoKernelError if an operation isn't lowered, or slots aren't in fp32."""
    if program.state_dtype not in (None, torch.float32):
        raise NoKernelError(f"there are no programs on tiles for state_dtype={program.state_dtype}")
    with refusing_unknown_operations(program):
        return Tiled(program, *graphs(program))


def triton(program: Program) -> gpu.Triton:
    """The Triton kernels, on CUDA or under Triton's interpreter. Raises NoKernelError if Triton can't be used."""
    if reason := gpu.fault(program.device):
        if program.device.type == "cuda":
            build.warn(reason)
        raise NoKernelError(reason)
    return gpu.Triton(program, triton_source(program))


@functools.lru_cache(maxsize=256)
def triton_source(program: Program) -> triton_emit.Code:
    """The code of the Triton kernels. Raises NoKernelError if an operation can't be written."""
    limit = min(largest_gradient(dtype or torch.float32) for dtype in (torch.float32, program.state_dtype))
    with refusing_unknown_operations(program):
        return triton_emit.emit(program, *graphs(program), limit)


@contextmanager
def refusing_unknown_operations(program: Program) -> Iterator[None]:
    try:
        yield
    except UnknownOperationError as error:
        raise NoKernelError(f"the rule {program.rule.name!r} has an operation without loops: {error}") from error


@functools.lru_cache(maxsize=256)
def graphs(program: Program) -> tuple[fx.Graph, fx.Graph]:
    """The graphs of the update and its derivatives. Raises NoKernelError or UnknownOperationError."""
    name, scalars = program.rule.name, program.scalar_inputs
    if not program.form.pointwise:
        raise NoKernelError(f"the rule {name!r} is not pointwise")
    try:
        forward = reduced(program.rule, program.fixed)
        backward = differentiate(forward, program.of_rule, scalars, with_product=program.slopes_lr)
        plain_roots(forward)
        share_inverses(build := Builder(forward, scalars), forward)
        join_factors(build, forward)
    except UNTRACEABLE as error:
        raise NoKernelError(f"the rule {name!r} can't be traced") from error
    return forward, backward
