"""Lowers a rule's graph to torch operations that write into buffers, for a piece of a tensor that fits into the caches.

There are fewer operations than in the graph: an average is one `lerp`, a product and a sum are one `addcmul`, and a
choice by a comparison is arithmetic with its 0 or 1, which is several times as fast on a CPU. A value takes a free
buffer, and releases it after its last use.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from mada_optim.graph.builder import Builder, UnknownOperationError, operation_of, total
from mada_optim.graph.specialize import SLOT, nodes_behind

LARGEST = torch.finfo(torch.float32).max
#: Torch's operations with an `out`, by name.
SAME_NAME = "mul add sub pow neg eq gt ge lt le sign sqrt maximum clamp".split()
OPERATIONS: dict[str, Callable[..., Tensor]] = {name: getattr(torch, name) for name in SAME_NAME}
OPERATIONS["truediv"] = torch.div


class Instruction(NamedTuple):
    """`operation(*registers[reads], out=registers[out])`; without `out` it makes a sum."""

    operation: Callable[..., Tensor]
    reads: tuple[int, ...]
    out: int | None


@dataclass(frozen=True)
class Lowered:
    """Instructions on registers: elements first, then scalars (0-d), numbers, buffers."""

    code: list[Instruction]  # leaves the next value of a slot in the slot's own register
    elements: tuple[str, ...]  # names of the registers with one number per element
    scalars: tuple[fx.Node, ...]  # the nodes of scalar registers
    numbers: tuple[float, ...]  # the values of number registers
    buffers: int  # number of buffers
    result: int | None  # the register of the requested value

    def run(self, registers: list[Any]) -> list[Tensor]:
        """Runs the instructions; returns the sums, 0-d."""
        sums = []
        for operation, reads, out in self.code:
            if out is None:
                sums.append(operation(*[registers[i] for i in reads]))
            else:
                operation(*[registers[i] for i in reads], out=registers[out])
        return sums


@dataclass(frozen=True)
class Operation:
    """The torch function that makes a value, and the values that it reads."""

    function: Callable[..., Tensor] | None  # None: it is the value that it reads
    reads: tuple[Any, ...]


Chosen = dict[fx.Node, Operation]


def lower(graph: fx.Graph, kinds: Builder, ends: Sequence[Any], slots: Mapping[str, Any]) -> Lowered:
    """The code for `ends`, one value or the totals, and for the next `slots`. Raises UnknownOperationError."""
    wanted = [*ends, *slots.values()]
    needed = nodes_behind(wanted)
    steps = [x for x in graph.nodes if x in needed and x.op != "placeholder" and (kinds.is_element(x) or x in ends)]
    uses = [y for x in steps for y in x.all_input_nodes] + wanted
    once = {x for x in steps if uses.count(x) == 1}
    chosen: Chosen = {}
    for x in steps:
        chosen[x] = _operation(x, kinds, chosen, once)
    return _allocate(_still_read(steps, chosen, wanted), chosen, ends, slots, kinds)


def _operation(x: fx.Node, kinds: Builder, chosen: Chosen, once: set[fx.Node]) -> Operation:
    args: tuple[Any, ...] = (*x.args, *x.kwargs.values())
    if x.target is total:  # not `torch.dot`, whose bits depend on the addresses
        return Operation(torch.sum, args)
    if x.target is operator.truediv and args[0] == 1.0:
        return Operation(torch.reciprocal, args[1:])
    if x.target is torch.where:
        return _choice(args, kinds)
    if x.target == "detach":
        return Operation(None, args[:1])
    if x.target is operator.add and (parts := _average(x, kinds, chosen, once)):
        return Operation(torch.lerp, parts)
    if x.target in (operator.add, operator.sub) and (parts := _rest_and_product(x, chosen, once)):
        return Operation(torch.addcmul if x.target is operator.add else _subcmul, parts)
    if x.target in (operator.mul, operator.add) and not isinstance(args[0], fx.Node):
        args = args[::-1]
    name = operation_of(x)
    if name not in OPERATIONS or set(x.kwargs) - {"min"} or not isinstance(args[0], fx.Node):
        raise UnknownOperationError(name)
    return Operation(OPERATIONS[name], args)


def _average(x: fx.Node, kinds: Builder, chosen: Chosen, once: set[fx.Node]) -> tuple[Any, ...] | None:
    """(y, z, b) if x = a y + b z with b made as 1 - a, and neither product has another use.

    `lerp` takes b, which is small for a long memory; in fp32, a has lost its digits.
    """
    args: tuple[Any, ...] = x.args
    products = [chosen[y].reads for y in args if y in once and chosen[y].function is torch.mul]
    if len(products) < 2:
        return None
    (y, a), (z, b) = (sorted(factors, key=kinds.is_element, reverse=True) for factors in products)
    if _is_rest(b, a):
        return y, z, b
    return (z, y, a) if _is_rest(a, b) else None


def _is_rest(b: Any, a: Any) -> bool:
    return isinstance(b, fx.Node) and b.target is operator.sub and tuple(b.args) == (1.0, a)


def _rest_and_product(x: fx.Node, chosen: Chosen, once: set[fx.Node]) -> tuple[Any, ...] | None:
    """(r, a, b) if x = r + a b, and the product has no other use."""
    left, right = x.args
    pairs: list[tuple[Any, Any]] = [(left, right), (right, left)][: 2 if x.target is operator.add else 1]
    for rest, y in pairs:
        if y in once and chosen[y].function is torch.mul and isinstance(rest, fx.Node):
            factors = chosen[y].reads
            if all(isinstance(z, fx.Node) for z in factors):
                return (rest, *factors)
    return None


def _choice(args: tuple[Any, ...], kinds: Builder) -> Operation:
    """`where(c, y, z)` as arithmetic with the condition's 0 or 1."""
    c, y, z = args
    if y == 0.0 and not kinds.is_element(c):
        return Operation(_unless, (z, c))
    if y == 1.0 and c.target is operator.eq and list(c.args) == [z, 0]:  # z = 0 there
        return Operation(torch.add, (z, c))
    if y == 0.0 and _is_masked(z, c):
        return Operation(None, (z,))
    return Operation(_masked, (z, c)) if y == 0.0 else Operation(_select, args)


def _is_masked(z: Any, c: fx.Node) -> bool:
    """Whether `z` is already 0 where `c` holds, as a product with something that is."""
    factors = z.args if isinstance(z, fx.Node) and z.target is operator.mul else ()
    return any(isinstance(y, fx.Node) and y.target is torch.where and y.args[:2] == (c, 0.0) for y in factors)


def _still_read(steps: list[fx.Node], chosen: Chosen, wanted: Sequence[Any]) -> list[fx.Node]:
    """The steps without products that were merged into another operation."""
    read = {x for x in wanted if isinstance(x, fx.Node)}
    for x in reversed(steps):
        if x in read:
            read.update(y for y in chosen[x].reads if isinstance(y, fx.Node))
    return [x for x in steps if x in read]


def _allocate(
    steps: list[fx.Node], chosen: Chosen, ends: Sequence[Any], slots: Mapping[str, Any], kinds: Builder
) -> Lowered:
    same: dict[Any, Any] = {}
    for x in steps:
        if chosen[x].function is None:
            same[x] = same.get(y := chosen[x].reads[0], y)
    steps = [x for x in steps if x not in same]
    reads = {x: tuple(same.get(y, y) for y in chosen[x].reads) for x in steps}
    ends = [same.get(x, x) for x in ends]
    slots = {name: same.get(x, x) for name, x in slots.items()}

    given = dict.fromkeys(y for x in (*reads.values(), ends, slots.values()) for y in x if y not in reads)
    nodes = [x for x in given if isinstance(x, fx.Node)]
    elements = {str(x.target): x for x in nodes if kinds.is_element(x)}
    scalars = [x for x in nodes if not kinds.is_element(x)]
    numbers = [x for x in given if not isinstance(x, fx.Node)]
    names = [*elements, *(SLOT + name for name in slots if SLOT + name not in elements)]
    registers: dict[Any, int] = {elements.get(name, name): i for i, name in enumerate(names)}
    for x in (*scalars, *numbers):
        registers[x] = len(registers)

    last = {y: i for i, x in enumerate(steps) for y in reads[x]} | dict.fromkeys([*ends, *slots.values()], len(steps))
    home = {x: registers[elements.get(SLOT + name, SLOT + name)] for name, x in slots.items()}
    first = len(registers)
    code, buffers = _code([(x, chosen[x].function, reads[x]) for x in steps], registers, last, home)
    code += [Instruction(_copy, (registers[x],), home[x]) for x in slots.values() if registers[x] != home[x]]
    result = registers[ends[0]] if len(ends) == 1 and ends[0] in registers else None
    return Lowered(code, tuple(names), tuple(scalars), tuple(numbers), buffers - first, result)


def _code(
    steps: list[tuple[fx.Node, Any, tuple[Any, ...]]],
    registers: dict[Any, int],
    last: dict[Any, int],
    home: dict[Any, int],
) -> tuple[list[Instruction], int]:
    """The instructions, and the number of registers with buffers; adds each value's register to `registers`.

    `steps` are values, with the function that makes each and the values that it reads. `last` is the last step that
    reads a value. `home` is the register of the slot whose next value a value is; it goes there after the slot's last
    use.
    """
    code, free, first = list[Instruction](), list[int](), len(registers)
    inputs, count = {register: x for x, register in registers.items()}, first
    for i, (x, function, sources) in enumerate(steps):
        free += [registers[y] for y in dict.fromkeys(sources) if last[y] == i and registers[y] >= first]
        reads = tuple(registers[y] for y in sources)
        if x.target is total:
            code.append(Instruction(function, reads, None))
            continue
        if x in home and last.get(inputs[home[x]], -1) <= i:
            out = home[x]
        else:
            out, count = (free.pop(), count) if free else (count, count + 1)
        registers[x] = out
        code.append(Instruction(function, reads, out))
    return code, count


def _subcmul(x: Tensor, y: Tensor, z: Tensor, out: Tensor) -> Tensor:
    return torch.addcmul(x, y, z, value=-1, out=out)


def _masked(x: Tensor, mask: Tensor, out: Tensor) -> Tensor:
    """0 where `mask` is 1, else x, which may be infinite there. `out` may be `x` or `mask`."""
    finite = torch.clamp(x, -LARGEST, LARGEST)
    return torch.addcmul(finite, finite, mask, value=-1, out=out)


def _unless(x: Tensor, condition: Tensor, out: Tensor) -> Tensor:
    """0 if the 0-d condition is 1, else x, which is finite."""
    return torch.mul(x, 1 - condition, out=out)


def _select(condition: Tensor, x: Tensor | float, y: Tensor | float, out: Tensor) -> Tensor:
    return out.copy_(torch.where(condition != 0, x, y))


def _copy(x: Tensor, out: Tensor) -> Tensor:
    return out.copy_(x)
