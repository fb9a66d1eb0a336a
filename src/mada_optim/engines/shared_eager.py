"""The eager engine on several processes with equal gradients: each computes the updates of some matrices.

The others get an update from its process, and compute the slots themselves, which need no product of matrices. Of the
last update only its derivatives are sent, one number for each learned coefficient.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

import torch
from torch import Tensor

from mada_optim.engines import eager
from mada_optim.engines.eager import Eager, EagerBatch
from mada_optim.engines.numbers import scalar_dtype
from mada_optim.engines.protocol import StepInput
from mada_optim.graph.specialize import SLOT, UNTRACEABLE, function_of, outputs, trace
from mada_optim.layouts import viewing
from mada_optim.rule import Coefficients, Rule, Slots
from mada_optim.sharding.replicated import Sharing


class SharedEager(Eager):
    """The kernel of the eager engine for processes that share matrices."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing

    def batch(self, entries: list[StepInput], prepared: list[StepInput]) -> EagerBatch:
        if self._sharing.world == 1 or all(entry.rule.pointwise for entry in entries):
            return super().batch(entries, prepared)
        return SharedEagerBatch(prepared, self._sharing)


class SharedEagerBatch(EagerBatch):
    """Tensors of one step, some of which are matrices that the processes share."""

    def __init__(self, entries: list[StepInput], sharing: Sharing) -> None:
        super().__init__(entries)
        self._sharing = sharing
        places = [i for i, entry in enumerate(entries) if not entry.rule.pointwise]
        taken = sharing.takers([(entries[i].p.shape, entries[i].layout) for i in places])
        self._takers = dict(zip(places, taken, strict=True))

    def _of_each(self) -> Iterable[Tensor]:
        if not self._sharing.divides or not self._entries[0].program.keeps_last_update:
            return super()._of_each()
        return self._shared_derivatives()

    def _shared_derivatives(self) -> list[Tensor]:
        of_each: list[Tensor] = []
        for i, entry in enumerate(self._entries):
            if self._takers.get(i, self._sharing.rank) == self._sharing.rank:
                h = eager.hypergradients_of(entry)
                of_each.append(torch.where(entry.state["step"] > 0, h, 0.0))
            else:
                device = entry.p.device
                of_each.append(torch.zeros(len(entry.program.learned), dtype=scalar_dtype(device), device=device))
        if self._takers:
            shared = self._sharing.sum(torch.stack([of_each[i] for i in self._takers]))
            for i, h in zip(self._takers, shared, strict=True):
                of_each[i] = h
        return of_each

    def advance(self, where: Tensor) -> None:
        if not self._sharing.divides:
            super().advance(where)
            return
        for i, entry in enumerate(self._entries):
            if i not in self._takers:
                eager.advance(entry, where.to(entry.p.device))
        queues = [[self._entries[i] for i, taker in self._takers.items() if taker == r] for r in self._sharing.ranks]
        for of_each in zip_longest(*queues):
            self._advance_together(of_each, where)

    def _advance_together(self, of_each: Sequence[StepInput | None], where: Tensor) -> None:
        """Moves one matrix of each process; None for a process that has no more."""
        messages = [self._message(entry, rank) for rank, entry in enumerate(of_each)]
        self._sharing.send(messages)
        for entry, message in zip(of_each, messages, strict=True):
            if entry is not None:
                eager.advance(entry._replace(rule=_given(message, entry)), where.to(entry.p.device))

    def _message(self, entry: StepInput | None, rank: int) -> Tensor:
        """The update of a matrix and its slots of rows, if this process computes them; else the memory for them."""
        if entry is None:
            return torch.empty(0)
        rows, program = entry.program.row_slots, entry.program
        if rank != self._sharing.rank:
            return entry.g.new_empty(sum(x.numel() for x in (entry.g, *map(entry.state.__getitem__, rows))))
        now = eager.slots_after_last_update(entry if rows else entry._replace(rule=_slots_of(entry)))
        u, after = entry.rule.update(eager.coefficients_of(entry), entry.g, now, entry.state["step"] + 1)
        kept = now if program.keeps_last_update else after
        return torch.cat([u.flatten(), *(kept[name].flatten() for name in rows)])


def _given(message: Tensor, entry: StepInput) -> Rule:
    """The entry's rule, whose next update is known, and the slots of rows that the state will have."""
    rule, rows = _slots_of(entry), {name: entry.state[name] for name in entry.program.row_slots}
    u, *new = torch.split(message, [x.numel() for x in (entry.g, *rows.values())])

    def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        known = {name: x.view_as(old) for (name, old), x in zip(rows.items(), new, strict=True)}
        return u.view_as(entry.g), {**rule.update(c, g, s, t)[1], **known}

    return replace(rule, update=update)


def _slots_of(entry: StepInput) -> Rule:
    return viewing(slots_alone(entry.program.form), entry.layout)


@functools.lru_cache(maxsize=256)
def slots_alone(form: Rule) -> Rule:
    """A rule with the slots of `form`, whose update is the gradient; a rule that can't be traced stays as it is.

    Slots with one number per row stay: they depend on the polar factor.
    """
    try:
        graph = trace(form)
    except UNTRACEABLE:
        return form
    (gradient,) = (x for x in graph.nodes if x.op == "placeholder" and x.target == "g")
    given = {str(x.target): x for x in graph.nodes if x.op == "placeholder"}
    rows = {slot.name: given[SLOT + slot.name] for slot in form.slots if slot.per_row}
    graph.output_node().args = ((gradient, {**outputs(graph)[1], **rows}),)
    graph.eliminate_dead_code()
    return replace(form, update=function_of(graph))
