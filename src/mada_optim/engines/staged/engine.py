"""Loops for rules of matrices: those of both pointwise parts, with torch's products between.

The head's update goes into buffers, as that of parameters at 0 which are moved by a learning rate of -1; there the
middle puts its matrix, which is the tail's gradient. So the parts are any kernel's jobs, on any device. Of a matrix
that is sharded they have the shard; for the middle it is put together on one of the processes
(`mada_optim.sharding.exchange`).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim.engines.eager import Cell, scalar
from mada_optim.engines.protocol import Job, Kernel
from mada_optim.engines.row_cache import States
from mada_optim.engines.staged.cut import Stages
from mada_optim.layouts import of_each
from mada_optim.rule import LR, option_key
from mada_optim.sharding import exchange

State = dict[str, Tensor]

BUFFER = 1 << 22  # elements, 16 MiB: matrices that are moved at once, or one that is larger


class Rows(NamedTuple):
    """What both parts have prepared for a matrix.

    Attributes:
        before: The head's cell, but for its buffer, in whose place the parameter is, and its options, which
            are the matrix's.
        after: The tail's, but for what the middle gives, in whose place the gradient is.
        head: What the head's kernel has for `before`.
        tail: What the tail's has for `after`.
    """

    before: Cell
    after: Cell
    head: Any
    tail: Any


class Staged:
    """The kernels of both parts of one form of a rule."""

    def __init__(self, stages: Stages, head: Kernel, tail: Kernel) -> None:
        self.stages, self.head, self.tail = stages, head, tail
        self._states: States[tuple[State, State]] = States(self._shared_out)
        self._buffer: Tensor | None = None

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.tail.name

    def row(self, cell: Cell) -> Rows | None:
        """What both kernels prepare; None where one can't move the matrix, or its shards can't be put together."""
        if cell.whole is not None and exchange.layout(cell.whole) is None:
            return None
        parts = self._states.row(cell.state, cell.p.shape)
        if parts is None:
            return None
        before = cell._replace(rule=self.stages.head, state=parts[0])
        after = cell._replace(rule=self.stages.tail, state=parts[1])
        head, tail = self.head.row(before), self.tail.row(after)
        return None if head is None or tail is None else Rows(before, after, head, tail)

    def keep(self, cells: list[Cell], prepared: list[Rows]) -> None:
        """Forgets the states of others, if there are many, and so do both kernels."""
        self._states.keep((cell.state for cell in cells), len(cells))
        self.head.keep([x.before for x in prepared], [x.head for x in prepared])
        self.tail.keep([x.after for x in prepared], [x.tail for x in prepared])

    def table(self, cells: list[Cell], prepared: list[Rows]) -> "StagedJob":
        """`cells` as one job of one step."""
        torch._foreach_copy_([x.before.state["step"] for x in prepared], [x.after.state["step"] for x in prepared])
        options = {id(cell.options): as_direction(cell.options) for cell in cells}
        before = [x.before._replace(options=options[id(x.before.options)]) for x in prepared]
        return StagedJob(self, [x._replace(before=cell) for x, cell in zip(prepared, before, strict=True)])

    def zeros(self, size: int, device: torch.device) -> Tensor:
        """A buffer, in memory that is kept from step to step: pages that are new to a process are dear."""
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.float32, device=device)
        return self._buffer[:size].zero_()

    def _shared_out(self, state: State, _: torch.Size) -> tuple[State, State] | None:
        """The head's part, with a t of its own, as it is the tail that moves the matrix's; and the tail's.

        None for a state that lacks its t. What there is of the others is for both kernels to look at.
        """
        if not isinstance(state.get("step"), Tensor):
            return None
        slots = {slot.name: state[slot.name] for slot in self.stages.head.slots}
        rest = {name: x for name, x in state.items() if name in ("step", "anchor")}
        return {"step": scalar(0.0, state["step"].device), **slots}, rest


def as_direction(options: Mapping[str, Any]) -> dict[str, Any]:
    """What moves a parameter at 0 to its update."""
    return {**{key: x for key, x in options.items() if key != option_key(LR.name)}, "lr": -1.0}


def size_of(cell: Cell) -> int:
    """Elements of a matrix's buffer; where it is cut the most on any process, as all must make the same parts."""
    return cell.p.numel() if cell.whole is None else exchange.largest_share(cell.whole)


class StagedJob:
    """Matrices of one step."""

    def __init__(self, kernel: Staged, matrices: list[Rows]) -> None:
        self._kernel, self._matrices = kernel, matrices

    def usable(self) -> Tensor:
        """Whether every gradient is usable, 0-d."""
        return self._whole_tail().usable()

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradient of lr from its trace, which the tail has."""
        return self._whole_tail().hypergradients(scopes)

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""
        for part in self._parts():
            buffers = self._buffers(part)
            before = [x.before._replace(p=buffer) for x, buffer in zip(part, buffers, strict=True)]
            self._kernel.head.table(before, [x.head for x in part]).advance(where)
            self._middle(part, buffers)
            after = [x.after._replace(g=buffer) for x, buffer in zip(part, buffers, strict=True)]
            self._tail(part, after).advance(where)

    def _middle(self, part: list[Rows], buffers: list[Tensor]) -> None:
        of_matrix, shards = self._kernel.stages.middle, []
        for x, buffer in zip(part, buffers, strict=True):
            if x.after.whole is None:
                buffer.copy_(of_each(of_matrix, buffer, x.after.layout))
            else:
                shards.append(exchange.Piece(buffer, x.after.whole, x.after.layout))
        exchange.replace(of_matrix, shards)

    def _whole_tail(self) -> Job:
        return self._tail(self._matrices, [x.after for x in self._matrices])

    def _tail(self, part: list[Rows], cells: list[Cell]) -> Job:
        return self._kernel.tail.table(cells, [x.tail for x in part])

    def _buffers(self, part: list[Rows]) -> list[Tensor]:
        shapes = [x.after.p.shape for x in part]
        zeros = self._kernel.zeros(sum(map(math.prod, shapes)), part[0].after.p.device)
        pieces = torch.split(zeros, list(map(math.prod, shapes)))
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def _parts(self) -> Iterator[list[Rows]]:
        """Matrices that have buffers at the same time; first those that are cut, of which all make the same parts."""
        part: list[Rows] = []
        size = 0
        for x in sorted(self._matrices, key=lambda x: x.after.whole is None):
            if part and size + size_of(x.after) > BUFFER:
                yield part
                part, size = [], 0
            part.append(x)
            size += size_of(x.after)
        if part:
            yield part
