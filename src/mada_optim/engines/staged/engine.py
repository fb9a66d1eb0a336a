"""Kernels for rules that orthogonalize: torch's products of matrices, between the kernels of two pointwise parts.

The head writes its update into a buffer: it moves a parameter that is 0 with a learning rate of -1. The middle replaces
the buffer by its polar factor, whose rows may get factors (`mada_optim.engines.staged.even_rows`). The tail takes the
buffer as its gradient. So both parts can run on any engine and device. Of a sharded matrix the parts have the shard;
for the middle, one process puts the matrix together (`mada_optim.sharding.exchange`). Processes that share whole
matrices each compute the middle of some (`mada_optim.sharding.replicated`).
"""

import math
import weakref
from collections import ChainMap
from collections.abc import Iterator, MutableMapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim import layouts
from mada_optim.engines.numbers import LOG_LR, scalar
from mada_optim.engines.prepared_states import PreparedStates
from mada_optim.engines.program import Program
from mada_optim.engines.protocol import Kernel, StepInput, TensorBatch
from mada_optim.engines.staged.cut import Stages
from mada_optim.engines.staged.even_rows import RowsHere, make_even
from mada_optim.matrices.hidden_matrices import LR_RATIO
from mada_optim.placement import fault_of
from mada_optim.sharding import exchange
from mada_optim.sharding.replicated import Sharing

State = dict[str, Tensor]
BUFFER = 1 << 22  # elements, 16 MiB: matrices that are moved at once, or one that is larger
BUFFER_ON_CUDA = 1 << 24  # likewise on CUDA, 64 MiB: enough equal matrices for batches that fill the device


class StagedMatrix(NamedTuple):
    """A matrix, or a batch of equal ones, prepared for the two kernels."""

    before: StepInput  # for the head, which moves a buffer in the place of the parameter
    after: StepInput  # for the tail, whose gradient is the buffer
    head: Any  # the result of `prepare` of the head's kernel, for `before`
    tail: Any  # the result of `prepare` of the tail's kernel, for `after`
    view: torch.Size  # the shape in which the middle sees the matrices of the whole parameter
    r: Tensor | None  # the slot with one number per row, if there is one

    @property
    def buffer_size(self) -> int:
        """Elements of the buffer; of a sharded matrix the largest share, as all processes must make the same parts."""
        return self.after.p.numel() if self.after.whole is None else exchange.largest_share(self.after.whole)


class Staged:
    """The kernels of one program that orthogonalizes: `head` and `tail`, with the `middle` on whole matrices."""

    def __init__(
        self,
        stages: Stages,
        head_program: Program,
        head: Kernel,
        tail_program: Program,
        tail: Kernel,
        sharing: Sharing | None = None,
    ) -> None:
        self.middle, self.rows, self.head, self.tail, self.sharing = stages.middle, stages.rows, head, tail, sharing
        self._head_program, self._tail_program = head_program, tail_program
        self._states: PreparedStates[tuple[State, State]] = PreparedStates(self._split)
        self._buffer: Tensor | None = None

    @property
    def name(self) -> str:
        return self.tail.name

    def prepare(self, entry: StepInput) -> StagedMatrix | None:
        """The matrix, prepared for both kernels; None if one can't move it, or its shards can't be joined."""
        if entry.whole is not None and exchange.layout(entry.whole) is None:
            return None
        states, r = self._states.get(entry.state, entry.p.shape), self._of_rows(entry)
        if states is None or (r is None and self.rows is not None):
            return None
        before, after = (
            entry._replace(program=program, rule=program.form, state=state)
            for program, state in zip((self._head_program, self._tail_program), states, strict=True)
        )
        head, tail = self.head.prepare(before), self.tail.prepare(after)
        if head is None or tail is None:
            return None
        shape = (entry.p if entry.whole is None else entry.whole).shape
        return StagedMatrix(before, after, head, tail, layouts.view_shape(shape, entry.layout), r)

    def _of_rows(self, entry: StepInput) -> Tensor | None:
        """The slot with one number per row; None if there is none, or it doesn't fit."""
        if self.rows is None:
            return None
        r, shape = entry.state.get(self.rows.slot), layouts.row_shape(entry.p.shape, entry.layout)
        if r is None or fault_of(r, tuple(shape), entry.p) is not None or r.dtype is not torch.float32:
            return None
        return r if r.is_contiguous() else None

    def forget_others(self, entries: list[StepInput], prepared: list[StagedMatrix]) -> None:
        self._states.forget_others(entries)
        self.head.forget_others([x.before for x in prepared], [x.head for x in prepared])
        self.tail.forget_others([x.after for x in prepared], [x.tail for x in prepared])

    def batch(self, entries: list[StepInput], prepared: list[StagedMatrix]) -> "StagedBatch":
        options = {id(entry.options): _for_head(entry.options) for entry in entries}
        before = [x.before._replace(options=options[id(x.before.options)]) for x in prepared]
        return StagedBatch(self, [x._replace(before=entry) for x, entry in zip(prepared, before, strict=True)])

    def zeros(self, size: int, device: torch.device) -> Tensor:
        """A buffer of zeros, in memory that is kept from step to step: new pages are slow."""
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.float32, device=device)
        return self._buffer[:size].zero_()

    def sections(self, buffers: list[Tensor], takers: list[int], world: int) -> list[Tensor]:
        """The buffer of each process, which has those of its matrices."""
        assert self._buffer is not None
        sizes = [sum(x.numel() for x, taker in zip(buffers, takers, strict=True) if taker == r) for r in range(world)]
        return list(torch.split(self._buffer[: sum(sizes)], sizes))

    def _split(self, state: State, _: torch.Size) -> tuple[State, State] | None:
        """The head's part of a state, with a t of its own, since the tail moves the matrix's; and the tail's part.

        None for a state without t. Both kernels check the rest.
        """
        if not isinstance(state.get("step"), Tensor):
            return None
        slots = {name: x for name, x in state.items() if name in self._head_program.state_names and name != "step"}
        rest = {name: x for name, x in state.items() if name in self._tail_program.state_names}
        return {"step": scalar(0.0, state["step"].device), **slots}, rest


def _rows_here(x: StagedMatrix, buffer: Tensor) -> RowsHere:
    assert x.r is not None
    whole = x.after.p if x.after.whole is None else x.after.whole
    number, rows, columns = layouts.as_matrices(whole.shape, x.after.layout)
    return RowsHere(x.after, buffer.view(x.r.numel(), columns), x.r.view(-1), number, rows)


def _for_head(options: MutableMapping[str, Any]) -> ChainMap[str, Any]:
    """The options that move a parameter at 0 to its update."""
    return ChainMap({"lr": -1.0, LOG_LR: None, LR_RATIO: 1.0}, options)


class StagedBatch(TensorBatch):
    """Matrices of one step, or of several with other gradients."""

    def __init__(self, kernel: Staged, matrices: list[StagedMatrix]) -> None:
        self._kernel = kernel
        self._whole_tail = self._tail(matrices, [x.after for x in matrices])
        self.can_follow = self._whole_tail.can_follow
        self._hold([x.before.g for x in matrices])
        self._matrices = [
            x._replace(before=x.before._replace(g=x.before.p), after=x.after._replace(g=x.after.p)) for x in matrices
        ]
        self._start()

    def _hold(self, gradients: list[Tensor]) -> None:
        """Keeps the gradients for `advance`, but not alive after the step."""
        self._gradients = list(map(weakref.ref, gradients))

    def _start(self) -> None:
        """Sets the head's t to the matrix's, which another engine may have moved meanwhile."""
        torch._foreach_copy_(
            [x.before.state["step"] for x in self._matrices], [x.after.state["step"] for x in self._matrices]
        )

    def follow(self, gradients: list[Any]) -> bool:
        if not self._whole_tail.follow(gradients):
            return False
        self._hold(gradients)
        self._start()
        return True

    def usable(self) -> Tensor:
        return self._whole_tail.usable()

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        return self._whole_tail.hypergradients(scopes)

    def advance(self, where: Tensor) -> None:
        gradients: list[tuple[StagedMatrix, Any]] = [
            (x, reference()) for x, reference in zip(self._matrices, self._gradients, strict=True)
        ]
        for part in self._parts([x._replace(before=x.before._replace(g=g)) for x, g in gradients]):
            part, takers = self._by_taker(part)
            buffers = self._buffers(part)
            before = [x.before._replace(p=buffer) for x, buffer in zip(part, buffers, strict=True)]
            self._kernel.head.batch(before, [x.head for x in part]).advance(where)
            self._orthogonalize(part, buffers, takers)
            if self._kernel.rows is not None:
                make_even(self._kernel.rows, list(map(_rows_here, part, buffers)), where)
            after = [x.after._replace(g=buffer) for x, buffer in zip(part, buffers, strict=True)]
            self._tail(part, after).advance(where)

    def _by_taker(self, part: list[StagedMatrix]) -> tuple[list[StagedMatrix], list[int]]:
        """The matrices in order of the processes that take them, and these; each process takes all if none are shared.

        So the buffers of each process are one message.
        """
        sharing = self._kernel.sharing
        if sharing is None:
            return part, [0] * len(part)
        takers = sharing.takers([(x.after.p.shape, x.after.layout) for x in part])
        order = sorted(range(len(part)), key=takers.__getitem__)
        return [part[i] for i in order], [takers[i] for i in order]

    def _orthogonalize(self, part: list[StagedMatrix], buffers: list[Tensor], takers: list[int]) -> None:
        middle, sharing = self._kernel.middle, self._kernel.sharing
        here, shards = list[tuple[Tensor, layouts.Layout]](), []
        for x, buffer, taker in zip(part, buffers, takers, strict=True):
            if x.after.whole is not None:
                shards.append(exchange.Piece(buffer, x.after.whole, x.after.layout))
            elif sharing is None or taker == sharing.rank:
                here.append((buffer, x.after.layout))
        if here:
            tensors = [buffer for buffer, _ in here]
            torch._foreach_copy_(tensors, layouts.of_all(middle, tensors, [layout for _, layout in here]))
        if shards:
            exchange.replace(middle, shards)
        if sharing is not None and sharing.divides:
            sharing.send(self._kernel.sections(buffers, takers, sharing.world))

    def _tail(self, part: list[StagedMatrix], entries: list[StepInput]) -> TensorBatch:
        return self._kernel.tail.batch(entries, [x.tail for x in part])

    def _buffers(self, part: list[StagedMatrix]) -> list[Tensor]:
        shapes = [x.after.p.shape for x in part]
        zeros = self._kernel.zeros(sum(map(math.prod, shapes)), part[0].after.p.device)
        pieces = torch.split(zeros, list(map(math.prod, shapes)))
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def _parts(self, matrices: list[StagedMatrix]) -> Iterator[list[StagedMatrix]]:
        """Matrices that have buffers at the same time, at least one for each process that computes some.

        Equal ones come one after the other, as they are taken in batches. Sharded ones come first: all processes must
        make equal parts of them.
        """
        part: list[StagedMatrix] = []
        size, most = 0, BUFFER_ON_CUDA if matrices[0].after.p.is_cuda else BUFFER
        kinds: dict[tuple[bool, torch.Size], list[StagedMatrix]] = {}
        for x in sorted(matrices, key=lambda x: x.after.whole is None):
            kinds.setdefault((x.after.whole is None, x.view[-2:]), []).append(x)
        for x in chain.from_iterable(kinds.values()):
            if len(part) >= self._processes(x) and size + x.buffer_size > most:
                yield part
                part, size = [], 0
            part.append(x)
            size += x.buffer_size
        if part:
            yield part

    def _processes(self, x: StagedMatrix) -> int:
        """How many processes compute the middle of some matrices, while this one computes that of others."""
        where = None if x.after.whole is None else exchange.layout(x.after.whole)
        if where is not None:
            return where.world
        return 1 if self._kernel.sharing is None else self._kernel.sharing.world
