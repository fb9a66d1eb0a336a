"""Finds the tensors of a step, and reuses those of the last step if only gradients and numbers have changed.

The comparison takes half of the time of a new search, which matters for small or many tensors
(docs/results/performance.md).
"""

from collections.abc import Mapping, MutableMapping
from functools import cached_property
from itertools import chain
from operator import is_, methodcaller
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim import placement
from mada_optim.engines.cpp import tensors
from mada_optim.engines.cpp.tensors import placement_of
from mada_optim.engines.numbers import scalar_dtype
from mada_optim.engines.protocol import JoinedBatches, StepInput, TensorBatch
from mada_optim.sharding import dtensors
from mada_optim.stepping.collect import Group, State, StepCollector
from mada_optim.stepping.dispatch import Dispatcher

VALUES = methodcaller("values")


class StepWork(NamedTuple):
    """The tensors of one step."""

    batch: TensorBatch | None  # all of them; None if no parameter has a gradient
    scopes: set[int]  # the rows of their learned coefficients
    gradients: list[Any]  # kept alive here: the batch has only their addresses

    def usable(self, home: torch.device) -> Tensor:
        """Whether every gradient is usable, 0-d on `home`."""
        return torch.ones((), dtype=torch.bool, device=home) if self.batch is None else self.batch.usable().to(home)

    def hypergradients(self, scopes: int, learned: int, home: torch.device) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned), on `home`."""
        if self.batch is None:
            zeros = torch.zeros(scopes, learned, dtype=scalar_dtype(home), device=home)
            return torch.ones((), dtype=torch.bool, device=home), zeros
        usable, h = self.batch.hypergradients(scopes)
        return usable.to(home), h.to(home)

    def advance(self, where: Tensor) -> None:
        if self.batch is not None:
            self.batch.advance(where)


class GroupSnapshot:
    """Parameter groups at one moment. `deciding` are the keys of values that decide how parameters are collected."""

    def __init__(self, groups: list[Group], deciding: tuple[str, ...]) -> None:
        self._deciding = deciding
        self._groups, self._shapes = list(groups), shapes_of(groups)
        self.params, self._values = params_of(groups), self._read(groups)
        self._tensors = placement_of(tensors_in(groups))

    def holds(self, groups: list[Group]) -> bool:
        """Whether nothing has changed but numbers that a step reads anyway."""
        return (
            same(groups, self._groups)
            and shapes_of(groups) == self._shapes
            and same(params_of(groups), self.params)
            and same(self._read(groups), self._values)
            and self._tensors.holds(tensors_in(groups))
        )

    @cached_property
    def reduction(self) -> dtensors.Reduction:
        """The process groups over which the parameters are sharded."""
        return dtensors.reduction(self.params)

    def _read(self, groups: list[Group]) -> list[Any]:
        return [group.get(key) for group in groups for key in self._deciding]


def shapes_of(groups: list[Group]) -> list[tuple[Any, ...]]:
    """The number of parameters and the keys of each group."""
    return [(len(group["params"]), *group) for group in groups]


class ReusableStep(NamedTuple):
    """The tensors of a step, for the next steps."""

    batch: TensorBatch  # all tensors as one batch
    parts: list[tuple[TensorBatch, list[Tensor]]]  # the batches that it consists of, with their parameters
    scopes: set[int]  # the rows of their learned coefficients
    idle: list[Tensor]  # the parameters without a gradient
    owners: list[int]  # ids of the parameters that have a state, in order
    names: list[str]  # the keys of all states, in order


class StepReuse:
    """Finds the tensors of each step. `dispatcher` has the kernels that `collector` uses."""

    def __init__(self, collector: StepCollector, dispatcher: Dispatcher) -> None:
        self._collector, self._dispatcher = collector, dispatcher
        self._groups: GroupSnapshot | None = None
        self._reusable: ReusableStep | None = None
        self._states: placement.Placement | tensors.Placement | None = None

    @property
    def reduction(self) -> dtensors.Reduction:
        """The process groups over which the parameters are sharded."""
        assert self._groups is not None
        return self._groups.reduction

    def follow(self, groups: list[Group]) -> GroupSnapshot:
        """Applies a user's changes of the groups since the last call. Raises the errors of `StepCollector.follow`."""
        if self._groups is None or not self._groups.holds(groups):
            self._groups = self._reusable = None
            self._collector.follow(groups)
            self._groups = GroupSnapshot(groups, self._collector.deciding)
        return self._groups

    def work(self, groups: list[Group], states: MutableMapping[Tensor, State], begin: bool = True) -> StepWork:
        """The tensors of a step; `begin` gives a state to parameters without one, else they are left out.

        Raises ValueError for a key or a value in a group, and RuntimeError for a tensor that can't be used; nothing is
        changed.
        """
        snapshot = self.follow(groups)
        before = tensors_of(states)
        unmoved = self._states is not None and self._states.holds(before)
        if not unmoved:
            self._reusable = self._states = None
            if self._dispatcher.keeps_addresses:
                self._dispatcher.forget()
        if self._reusable is not None and (reused := self._reused(self._reusable, states)):
            return reused
        over = snapshot.reduction
        batches = self._collector.batches(groups, states, begin, over.replicas if over.groups else None)
        batch = (
            batches[0][0] if len(batches) == 1 else JoinedBatches([part for part, _ in batches]) if batches else None
        )
        self._reusable = None if batch is None else self._found(batch, snapshot, states, batches)
        if self._dispatcher.keeps_addresses and not (unmoved and sum(map(len, states.values())) == len(before)):
            self._states = placement_of(tensors_of(states))
        entries = [entry for _, of_batch in batches for entry in of_batch]
        scopes, gradients = {entry.scope for entry in entries}, [entry.g for entry in entries]
        return StepWork(batch, scopes, gradients)

    def _reused(self, last: ReusableStep, states: Mapping[Tensor, State]) -> StepWork | None:
        """The last step's tensors with the present gradients; None if anything else has changed."""
        if list(map(id, states)) != last.owners or list(chain.from_iterable(states.values())) != last.names:
            return None
        if any(p.grad is not None for p in last.idle):
            return None
        gradients = [[p.grad for p in ps] for _, ps in last.parts]
        if not all(batch.follow(of_batch) for (batch, _), of_batch in zip(last.parts, gradients, strict=True)):
            return None
        return StepWork(last.batch, last.scopes, gradients)

    def _found(
        self,
        batch: TensorBatch,
        snapshot: GroupSnapshot,
        states: Mapping[Tensor, State],
        parts: list[tuple[TensorBatch, list[StepInput]]],
    ) -> ReusableStep | None:
        """The step for reuse; None if a kernel can't follow, or an input isn't a parameter with its own gradient."""
        entries = [entry for _, of_part in parts for entry in of_part]
        if not self._collector.options_are_live:
            return None
        gradients = {id(p): p.grad for p in snapshot.params if p.grad is not None}
        if len(entries) != len(gradients) or not all(entry.g is gradients.get(id(entry.p)) for entry in entries):
            return None
        if not all(part.can_follow for part, _ in parts):
            return None
        return ReusableStep(
            batch=batch,
            parts=[(part, [entry.p for entry in of_part]) for part, of_part in parts],
            scopes={entry.scope for entry in entries},
            idle=[p for p in snapshot.params if p.grad is None],
            owners=list(map(id, states)),
            names=list(chain.from_iterable(states.values())),
        )


def same(xs: list[Any], ys: list[Any]) -> bool:
    return len(xs) == len(ys) and all(map(is_, xs, ys))


def tensors_in(groups: list[Group]) -> list[Tensor]:
    """The tensors in groups: learning rates, coefficients, and the memory of learners."""
    return [x for group in groups for x in group.values() if isinstance(x, Tensor)]


def params_of(groups: list[Group]) -> list[Tensor]:
    return list(chain.from_iterable(group["params"] for group in groups))


def tensors_of(states: Mapping[Tensor, State]) -> list[Tensor]:
    return list(chain.from_iterable(map(VALUES, states.values())))
