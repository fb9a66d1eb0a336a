"""Where the coefficients of a learner live: one row per scope, one column per coefficient.

Parameter groups hold views of the rows that are theirs: with the scope "global" all groups the same 0-d tensors, with
"group" each its own, with "tensor" 1-d tensors with one entry per parameter of the group. A hyper-step writes the bank,
and with it every group. Beside the coefficients it keeps what the learner's `init` gives, a row for each scope.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_optim.learning.hyper_torch import HyperTorch
from mada_optim.learning.learner import CoefficientOptimizer, Learner, Memory, StepInfo, vector
from mada_optim.placement import Placement
from mada_optim.rule import Interval, option_key

#: Keys in a group of what every bank keeps: the last hypergradients, and the number of steps that counted.
HYPERGRADIENT, APPLIED_STEPS = "hypergradient", "applied_steps"
#: Key in the groups of a state dict of the names of a bank's coefficients.
LEARNED = "learned"
#: Before the names of a learner's memory.
PREFIX = "hyper_"


def is_memory(key: object) -> bool:
    """Whether a key of a group is one that banks use beside those of coefficients."""
    own = str(key).partition(".")[0]
    return own in (HYPERGRADIENT, APPLIED_STEPS, LEARNED) or own.startswith(PREFIX)


class Bank:
    """The coefficients that a learner moves, and its memory.

    Args:
        learner: What moves them.
        intervals: The interval of each, by name, in the rule's order, lr last.
        rates: The hyper learning rates that the rule declares.
        number: Its place among the banks of an optimizer, in the order of their coefficients; the keys of all but the
            first end in it.
    """

    def __init__(
        self, learner: Learner, intervals: Mapping[str, Interval], rates: Mapping[str, float], number: int
    ) -> None:
        self.learner, self.scope, self.names = learner, learner.scope, tuple(intervals)
        self._keys = tuple(map(option_key, intervals))
        self.number = number
        self._rates = tuple(rates[name] for name in intervals)
        self._low = tuple(x.low for x in intervals.values())
        self._high = tuple(x.high for x in intervals.values())
        self._suffix = f".{number}" if number else ""
        self.columns: dict[str, Tensor] = {}  # by key in a group: coefficients (rows,), memory (rows, ...)
        self._workers: dict[str, CoefficientOptimizer] = {}
        self._places: list[int | slice] = []
        self._views: list[dict[str, Tensor]] = []
        self._begun = False
        #: Whether the learner has made a step, of a form that was looked at.
        self.has_stepped = False
        self._made: dict[Any, Tensor | float] = {}  # by ids, which a copy doesn't have
        self._lr_floor = self._low[-1]

    @property
    def rows(self) -> int:
        """Number of scopes."""
        return next((len(x) for x in self.columns.values()), 0)

    @property
    def places(self) -> Sequence[int | slice]:
        """The row of each group, or the rows of its parameters."""
        return self._places

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that work for the learner."""
        return [x.optimizer for x in self._workers.values()]

    @property
    def hypergradient_key(self) -> str:
        """Where groups have the last hypergradients."""
        return HYPERGRADIENT + self._suffix

    @property
    def learned_key(self) -> str:
        """Where groups of a state dict have the names of the coefficients."""
        return LEARNED + self._suffix

    def _vector(self, numbers: tuple[float, ...]) -> Tensor:
        like = self.columns[self._keys[0]]
        return vector(numbers, like.dtype, like.device)

    def coefficients(self) -> Tensor:
        """The coefficients, (rows, names)."""
        return torch.stack([self.columns[key] for key in self._keys], dim=-1)

    def own(self, key: str) -> Tensor:
        """What every bank keeps under `key`."""
        return self.columns[key + self._suffix]

    def info(self, counts: Tensor, scheduled: Callable[[], Tensor]) -> StepInfo:
        """What the learner may know of a step that counts for some rows; `scheduled` gives the lr of each row."""
        steps, start, stop = self.own(APPLIED_STEPS), max(self.learner.start, 1), self.learner.stop
        moves = counts & (steps >= start)
        moves = moves if stop is None else moves & (steps < stop)
        ends = (self._vector(self._low), self._vector(self._high))
        return StepInfo(self.names, *ends, self._rates, steps, counts, moves, self._lr_floor, scheduled, self._made)

    def memory(self) -> Memory:
        """What the learner remembers, by its names."""
        begin, end = len(PREFIX), -len(self._suffix) or None
        kept: Memory = {key[begin:end]: x for key, x in self.columns.items() if key.startswith(PREFIX)}
        return kept | self._workers

    def store(self, q: Tensor, memory: Memory, h: Tensor, info: StepInfo, counts: Tensor) -> None:
        """Overwrites coefficients and memory by those after a step, in place, in the rows that it counts for."""
        targets = [self.columns[key] for key in self._keys]
        new = list(q.unbind(-1))
        for name, x in memory.items():
            old = self.columns.get(self._key(name))
            if old is not None and x is not old:
                targets.append(old)
                new.append(_where(info.counts, x, old))
        for key, x in ((HYPERGRADIENT, h), (APPLIED_STEPS, info.steps + 1)):
            targets.append(self.own(key))
            new.append(_where(counts, x, targets[-1]))
        torch._foreach_copy_(targets, new)

    def _key(self, name: str) -> str:
        return f"{PREFIX}{name}{self._suffix}"

    def rows_of(self, group: int, parameters: int) -> Sequence[int]:
        """The row of each of a group's parameters."""
        place = self._places[group]
        return range(place.start, place.stop) if isinstance(place, slice) else [place] * parameters

    def by_row(self, of_groups: Sequence[Tensor]) -> Tensor:
        """A number per row (rows,), from one per group, 0-d; of all groups together, that of the first."""
        if self.scope == "global":
            return of_groups[0].reshape(1)
        spread = [
            x.expand(p.stop - p.start if isinstance(p, slice) else 1)
            for x, p in zip(of_groups, self._places, strict=True)
        ]
        return torch.cat(spread)

    def add_group(self, start: Mapping[str, Tensor], parameters: int) -> None:
        """Makes room for a new group of so many parameters, whose coefficients start at `start`, 0-d, by name."""
        shared = self.scope == "global" and self.rows > 0
        new = 0 if shared else parameters if self.scope == "tensor" else 1
        rows, place = self.rows, 0 if self.scope == "global" else self.rows
        self._places.append(slice(rows, rows + new) if self.scope == "tensor" else place)
        fresh = {option_key(name): start[name].expand(new) for name in self.names}
        like = fresh[option_key(self.names[0])]
        fresh[HYPERGRADIENT + self._suffix] = like.new_zeros(new, len(self.names))
        fresh[APPLIED_STEPS + self._suffix] = like.new_zeros(new)
        if self._begun and new:
            fresh |= self._initial(torch.stack([fresh[option_key(q)] for q in self.names], dim=-1))
        self.columns |= {key: torch.cat([self.columns.get(key, x[:0]), x]) for key, x in fresh.items()}

    def begin(self, lr_floor: float | None) -> None:
        """Makes the learner's memory, once all groups that an optimizer is constructed with are there.

        `lr_floor` is as in `StepInfo`; None where shapes say nothing.
        """
        self._begun = True
        if lr_floor is not None:
            self._lr_floor = lr_floor
        if self.rows:
            self.columns |= self._initial(self.coefficients())

    def _initial(self, q: Tensor) -> dict[str, Tensor]:
        """The learner's memory of new rows, by key; what works for it is put aside."""
        rows = len(q)
        low, high = (vector(x, q.dtype, q.device) for x in (self._low, self._high))
        yes = torch.ones(rows, dtype=torch.bool, device=q.device)
        none = q.new_zeros(rows)
        info = StepInfo(self.names, low, high, self._rates, none, yes, ~yes, self._lr_floor, none.clone)
        memory = self.learner.init(q, info)
        self._workers |= {name: x for name, x in memory.items() if isinstance(x, CoefficientOptimizer)}
        return {
            self._key(name): self._fitting(name, x, rows) for name, x in memory.items() if name not in self._workers
        }

    def _fitting(self, name: str, x: object, rows: int) -> Tensor:
        if not isinstance(x, Tensor) or x.shape[:1] != (rows,):
            raise ValueError(
                f"init of {type(self.learner).__name__}, {name!r}: expected a tensor with {rows} rows, got {x!r}; "
                "its first dimension is that of q"
            )
        return x

    def attach(self, groups: list[dict[str, Any]]) -> None:
        """Gives each group its views."""
        self._views = [{key: x[place] for key, x in self.columns.items()} for place in self._places]
        if self.scope == "global":
            self._views = self._views[:1] * len(self._places)  # one tensor is one object in every group
        for group, views in zip(groups, self._views, strict=True):
            group.update(views)

    def adopt(self, groups: list[dict[str, Any]]) -> None:
        """Takes over what was put into a group in place of a view, by a user, a scheduler or a state dict.

        A view that lies elsewhere since, as after `x.data = y`, is none of the bank's any more, and is taken over too.
        """
        strange = False
        for group, views, place in zip(groups, self._views, self._places, strict=True):
            for key, view in views.items():
                x, own = group[key], self.columns[key][place]
                if x is not view or not Placement([own]).holds([x]):
                    strange = True
                    own.copy_(x) if isinstance(x, Tensor) else own.fill_(x)
        if strange:
            self.attach(groups)

    def __getstate__(self) -> dict[str, Any]:
        """What copies take along: not the function that made an optimizer, which pickle may not know."""
        state: dict[str, Any] = {**self.__dict__, "_made": {}}
        if isinstance(self.learner, HyperTorch):
            fields = {x.name: getattr(self.learner, x.name) for x in dataclasses.fields(self.learner)}
            state["learner"] = HyperTorch(*_listed(fields.pop("names")), **{**fields, "make": already_made})
        return state


def already_made(leaves: list[Tensor]) -> Optimizer:
    """In the place of a copy's `make`.

    Raises:
        RuntimeError: Always: a copy has the optimizer that was made.
    """
    raise RuntimeError("a copied HyperTorch has no `make`: give the new optimizer a learner of its own")


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _where(where: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` in the rows where `where` (rows,) holds, else `old`."""
    return torch.where(where.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
