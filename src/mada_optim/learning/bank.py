"""A bank: a table of the coefficients of one learner, with a row per scope and a column per coefficient.

The bank also has the learner's memory, a row per scope. Parameter groups hold views of their rows. With the scope
"global", all groups hold the same 0-d tensors; with "group", each its own; with "tensor", 1-d tensors with an entry per
parameter. A hyper-step writes into the bank, and so into every group.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_optim import modes
from mada_optim.learning.hyper_torch import HyperTorch
from mada_optim.learning.learner import CoefficientOptimizer, Learner, Memory, StepInfo, vector
from mada_optim.placement import Placement
from mada_optim.rule import Interval, option_key

#: Keys of parameter groups that every bank uses: the last hypergradients, and the number of steps that counted.
HYPERGRADIENT, APPLIED_STEPS = "hypergradient", "applied_steps"
#: Key in the groups of a state dict: the names of a bank's coefficients.
LEARNED = "learned"
#: Prefix of the keys of a learner's memory.
PREFIX = "hyper_"


def is_memory(key: object) -> bool:
    """Whether a key of a parameter group is a bank's, other than those of coefficients."""
    plain = str(key).partition(".")[0]
    return plain in (HYPERGRADIENT, APPLIED_STEPS, LEARNED) or plain.startswith(PREFIX)


class Bank:
    """The coefficients that a learner moves, and the learner's memory.

    Args:
        learner: The learner.
        intervals: The interval of each coefficient by name, in the rule's order, lr last.
        rates: The hyper learning rates that the rule declares, by name.
        number: The bank's place among those of an optimizer, in the order of their coefficients. The keys of every bank
            but the first end in it.

    Attributes:
        columns: By key in a group: coefficients (rows,), memory (rows, ...).
        places: The row of each group, or with the scope "tensor" the rows of its parameters.
        has_stepped: Whether the learner has made a step, whose form was checked.
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
        self.hypergradient_key, self.learned_key = HYPERGRADIENT + self._suffix, LEARNED + self._suffix
        self._steps_key = APPLIED_STEPS + self._suffix
        self.columns: dict[str, Tensor] = {}
        self.places: list[int | slice] = []
        self.has_stepped = False
        self._coefficient_optimizers: dict[str, CoefficientOptimizer] = {}
        self._views: list[dict[str, Tensor]] = []
        self._begun = False
        self._made: dict[Any, Tensor | float] = {}  # by ids, which a copy doesn't have
        self._lr_floor = self._low[-1]

    @property
    def rows(self) -> int:
        """Number of scopes."""
        return next((len(x) for x in self.columns.values()), 0)

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that the learner has made."""
        return [x.optimizer for x in self._coefficient_optimizers.values()]

    def coefficients(self) -> Tensor:
        """The coefficients, (rows, names)."""
        return torch.stack([self.columns[key] for key in self._keys], dim=-1)

    def _intervals(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper ends, (names,), in the dtype and on the device of `like`."""
        return vector(self._low, like.dtype, like.device), vector(self._high, like.dtype, like.device)

    def info(self, counts: Tensor, scheduled_lr: Callable[[], Tensor]) -> StepInfo:
        """The learner's information on a step that counts for the rows in `counts`."""
        steps, start, stop = self.columns[self._steps_key], max(self.learner.start, 1), self.learner.stop
        moves = counts & (steps >= start)
        moves = moves if stop is None else moves & (steps < stop)
        ends = self._intervals(steps)
        return StepInfo(self.names, *ends, self._rates, steps, counts, moves, self._lr_floor, scheduled_lr, self._made)

    def memory(self) -> Memory:
        """The learner's memory, by the learner's names."""
        begin, end = len(PREFIX), -len(self._suffix) or None
        kept: Memory = {key[begin:end]: x for key, x in self.columns.items() if key.startswith(PREFIX)}
        return kept | self._coefficient_optimizers

    def store(self, q: Tensor, memory: Memory, h: Tensor, info: StepInfo, counts: Tensor) -> None:
        """Writes the coefficients, memory and hypergradients of a step, in place, in the rows that it counts for."""
        targets = [self.columns[key] for key in self._keys]
        new = list(q.unbind(-1))
        for name, x in memory.items():
            old = self.columns.get(self._key(name))
            if old is not None and x is not old:
                targets.append(old)
                new.append(_where(info.counts, x, old))
        for key, x in ((self.hypergradient_key, h), (self._steps_key, info.steps + 1)):
            targets.append(self.columns[key])
            new.append(_where(counts, x, targets[-1]))
        torch._foreach_copy_(targets, new)

    def _key(self, name: str) -> str:
        return f"{PREFIX}{name}{self._suffix}"

    def rows_of(self, group: int, parameters: int) -> Sequence[int]:
        """The row of each of a group's parameters."""
        place = self.places[group]
        return range(place.start, place.stop) if isinstance(place, slice) else [place] * parameters

    def by_row(self, of_groups: Sequence[Tensor]) -> Tensor:
        """Numbers of groups, 0-d each, as numbers of rows, (rows,); with the scope "global" that of the first group."""
        if self.scope == "global":
            return of_groups[0].reshape(1)
        counts = [place.stop - place.start if isinstance(place, slice) else 1 for place in self.places]
        return torch.cat([x.expand(n) for x, n in zip(of_groups, counts, strict=True)])

    def add_group(self, start: Mapping[str, Tensor], parameters: int) -> None:
        """Adds the rows of a group with so many parameters; `start` has its coefficients by name, 0-d."""
        rows, shared = self.rows, self.scope == "global"
        new = parameters if self.scope == "tensor" else 0 if shared and rows else 1
        self.places.append(slice(rows, rows + new) if self.scope == "tensor" else 0 if shared else rows)
        q = torch.stack([start[name].expand(new) for name in self.names], dim=-1)
        fresh = {option_key(name): x for name, x in zip(self.names, q.unbind(-1), strict=True)}
        fresh |= {self.hypergradient_key: torch.zeros_like(q), self._steps_key: q.new_zeros(new)}
        if self._begun and new:
            fresh |= self._initial(q)
        self.columns |= {key: torch.cat([self.columns.get(key, x[:0]), x]) for key, x in fresh.items()}

    def begin(self, lr_floor: float | None) -> None:
        """Makes the learner's memory, after the groups that the optimizer is constructed with.

        `lr_floor` is that of `StepInfo`; None leaves it at the lower end of the interval.
        """
        self._begun = True
        if lr_floor is not None:
            self._lr_floor = lr_floor
        if self.rows:
            self.columns |= self._initial(self.coefficients())

    def _initial(self, q: Tensor) -> dict[str, Tensor]:
        """The learner's memory of new rows by key, without optimizers, which the bank keeps itself."""
        rows = len(q)
        yes = torch.ones(rows, dtype=torch.bool, device=q.device)
        none = q.new_zeros(rows)
        info = StepInfo(self.names, *self._intervals(q), self._rates, none, yes, ~yes, self._lr_floor, none.clone)
        memory = self.learner.init(q, info)
        optimizers = {name: x for name, x in memory.items() if isinstance(x, CoefficientOptimizer)}
        self._coefficient_optimizers |= optimizers
        return {self._key(name): self._fitting(name, x, rows) for name, x in memory.items() if name not in optimizers}

    def _fitting(self, name: str, x: object, rows: int) -> Tensor:
        if not isinstance(x, Tensor) or x.shape[:1] != (rows,):
            raise ValueError(
                f"init of {type(self.learner).__name__}, {name!r}: expected a tensor with {rows} rows, got {x!r}; "
                "its first dimension is that of q"
            )
        return x

    def attach(self, groups: list[dict[str, Any]]) -> None:
        """Puts the views of its rows into each group."""
        self._views = [{key: x[place] for key, x in self.columns.items()} for place in self.places]
        if self.scope == "global":
            self._views = self._views[:1] * len(self.places)  # one tensor is one object in every group
        for group, views in zip(groups, self._views, strict=True):
            group.update(views)

    def adopt(self, groups: list[dict[str, Any]]) -> None:
        """Copies the values that replace views in a group, set by a user, a scheduler or a state dict, into the bank.

        So it does with a view whose memory has changed, as by `x.data = y`.
        """
        replaced = False
        for group, views, place in zip(groups, self._views, self.places, strict=True):
            for key, view in views.items():
                x, row = group[key], self.columns[key][place]
                if x is not view or not Placement([row]).holds([x]):
                    modes.refuse_capture(
                        row.device,
                        f"{key!r} in a parameter group was set anew, which each replay would do; step once before",
                    )
                    replaced = True
                    row.copy_(x) if isinstance(x, Tensor) else row.fill_(x)
        if replaced:
            self.attach(groups)

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy, without the `make` of a HyperTorch, which pickle may not know."""
        state: dict[str, Any] = {**self.__dict__, "_made": {}}
        if isinstance(self.learner, HyperTorch):
            state["learner"] = dataclasses.replace(self.learner, make=already_made)
        return state


def already_made(leaves: list[Tensor]) -> Optimizer:
    """Replaces the `make` of a copied HyperTorch, which has its optimizer already. Raises RuntimeError."""
    raise RuntimeError("a copied HyperTorch has no `make`: give the new optimizer a learner of its own")


def _where(where: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` in the rows where `where` (rows,) holds, else `old`."""
    return torch.where(where.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
