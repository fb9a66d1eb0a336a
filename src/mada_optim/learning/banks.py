"""The learned coefficients of an optimizer: a bank for each of its learners."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_optim import checks
from mada_optim.learning.bank import Bank
from mada_optim.learning.hyper_sgd import HyperSGD
from mada_optim.learning.hyper_step import hyper_step
from mada_optim.learning.learner import Learner
from mada_optim.learning.options import declared, require_steps
from mada_optim.rule import LR, Interval, Rule

#: The type of an optimizer's argument `learn`.
Learn = str | Learner | Iterable[str | Learner]
#: From the coarsest to the finest.
SCOPES = ("global", "group", "tensor")


def learners_of(learn: Learn) -> list[Learner]:
    """The learners in `learn`; all names together become one `HyperSGD`.

    Raises ValueError if an entry is neither a name nor a learner, or `learn` is a dict, whose values have no effect.
    """
    if isinstance(learn, str | Learner):
        learn = (learn,)
    entries = list(learn) if isinstance(learn, Iterable) and not isinstance(learn, Mapping) else [learn]
    names = [x for x in entries if isinstance(x, str)]
    for x in entries:
        if not isinstance(x, str | Learner):
            raise ValueError(
                f'learn={x!r}: expected names of coefficients, "all" or (), a learner such as HyperSGD("beta1"), or a '
                "list of these"
            )
    return [x for x in entries if isinstance(x, Learner)] + ([HyperSGD(*names)] if names else [])


class Banks:
    """The learned coefficients of an optimizer.

    Attributes:
        intervals: The interval of each learned coefficient, by name.
        names: The learned coefficients, in the rule's order, lr last.
        banks: A bank for each learner, in the order of `learn`.
        scope: The finest scope: that of the rows of hypergradients, and of readings.
        horizon: Decay of lr's trace; 0 without a trace.

    Raises ValueError if a name is none of the rule's coefficients or is given to two learners, or bounds don't fit.
    """

    def __init__(self, rule: Rule, learn: Learn) -> None:
        self.intervals: dict[str, Interval] = {}
        given: list[tuple[Learner, dict[str, Interval]]] = []
        for learner in learners_of(learn):
            _require_declared(learner)
            names = checks.learned_names(rule, learner.names)
            _require_apart(names, self.intervals)
            intervals = checks.intervals(rule, learner.bounds, names)
            self.intervals.update(intervals)
            if intervals:  # "all" is no coefficient where the rule has none
                given.append((learner, intervals))
        self.names = tuple(q for q in (*rule.coefficient_names(), LR.name) if q in self.intervals)
        self.banks = _numbered(given, {q.name: q.hyper_lr for q in (*rule.coefficients, LR)})
        self.scope = max((bank.scope for bank in self.banks), key=SCOPES.index, default="global")
        self.horizon = _horizon(self.banks)

    @property
    def by_number(self) -> Sequence[Bank]:
        """The banks in the order of state dicts, which doesn't depend on the order of `learn`."""
        return sorted(self.banks, key=lambda bank: bank.number)

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that learners have made."""
        return [x for bank in self.banks for x in bank.optimizers]

    def names_by_key(self) -> dict[str, list[str]]:
        """The names of each bank's coefficients, by their key in the groups of a state dict."""
        return {bank.learned_key: list(bank.names) for bank in self.by_number}

    @property
    def finest(self) -> Bank | None:
        """A bank of the finest scope; None if nothing is learned."""
        return next((bank for bank in self.banks if bank.scope == self.scope), None)

    @property
    def rows(self) -> int:
        """Number of rows of the finest scope."""
        return 0 if self.finest is None else self.finest.rows

    def columns(self) -> dict[str, Tensor]:
        """The columns of all banks, by key in a group."""
        return {key: x for bank in self.banks for key, x in bank.columns.items()}

    def per_parameter(self) -> list[str]:
        """The keys of groups under which each parameter has an entry of its own."""
        return [key for bank in self.banks if bank.scope == "tensor" for key in bank.columns]

    def rows_of(self, group: int, parameters: int) -> Sequence[int]:
        """The row of each of a group's parameters, of the finest scope; 0 if nothing is learned."""
        return [0] * parameters if self.finest is None else self.finest.rows_of(group, parameters)

    def add_group(self, start: Mapping[str, Tensor], parameters: int) -> None:
        """Adds the rows of a new group to each bank; the arguments are those of `Bank.add_group`."""
        for bank in self.banks:
            bank.add_group(start, parameters)

    def begin(self, lr_floor: float | None) -> None:
        """Makes the memory of each learner; `lr_floor` is that of `Bank.begin`."""
        for bank in self.banks:
            bank.begin(lr_floor)

    def attach(self, groups: list[dict[str, Any]]) -> None:
        """Puts the views of its rows into each group."""
        for bank in self.banks:
            bank.attach(groups)

    def adopt(self, groups: list[dict[str, Any]]) -> None:
        """Copies values that replace views in a group into the banks."""
        for bank in self.banks:
            bank.adopt(groups)

    def hypergradient(self, name: str, options: Mapping[str, Any]) -> float:
        """The last hypergradient of a coefficient, from the options of a group as one of its parameters sees them."""
        bank = next(x for x in self.banks if name in x.names)
        return float(options[bank.hypergradient_key][bank.names.index(name)])

    def step(self, h: Tensor, counts: Tensor, lrs: Callable[[], Sequence[Tensor]]) -> None:
        """A hyper-step of every learner.

        Args:
            h: Hypergradients, (rows, names) of the finest scope.
            counts: Whether the step counts, (rows,).
            lrs: Returns the scheduled lr of each group, 0-d.
        """
        columns = dict(zip(self.names, h.unbind(-1), strict=True))
        for bank in self.banks:
            # Indexing h with a list would copy the list to the device, and the host would wait for that.
            part = h if bank.names == self.names else torch.stack([columns[q] for q in bank.names], dim=-1)
            hyper_step(bank, *self._coarser(bank, part, counts), lrs)

    def _coarser(self, bank: Bank, h: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Hypergradients summed over the rows in each of the bank's rows, and whether the step counts for any."""
        if bank.scope == self.scope:
            return h, counts
        if bank.scope == "global":
            return h.sum(0, keepdim=True), counts.any().reshape(1)
        assert self.finest is not None
        parts = [place for place in self.finest.places if isinstance(place, slice)]
        return torch.stack([h[x].sum(0) for x in parts]), torch.stack([counts[x].any() for x in parts])


def _require_declared(learner: Learner) -> None:
    """Checks the options that every learner has; a learner of a third party may not have checked them."""
    names = getattr(learner, "names", None)
    listed = isinstance(names, tuple | list) and names and all(isinstance(name, str) for name in names)
    if not isinstance(names, str) and not listed:
        raise ValueError(
            f"names of {type(learner).__name__}={names!r}: expected names of coefficients, or "
            '"all"; give it a field such as names: tuple[str, ...] = ("beta1",)'
        )
    for name, option in declared(Learner).items():
        option.checked(name, getattr(learner, name))
    require_steps(learner.start, learner.stop)


def _numbered(given: Sequence[tuple[Learner, dict[str, Interval]]], rates: Mapping[str, float]) -> list[Bank]:
    """A bank for each learner, numbered in the order of their first coefficients."""
    order = list(rates)
    firsts = [min(order.index(q) for q in intervals) for _, intervals in given]
    numbers = [sorted(firsts).index(first) for first in firsts]
    return [Bank(*one, rates, number) for one, number in zip(given, numbers, strict=True)]


def _require_apart(names: Iterable[str], taken: Iterable[str]) -> None:
    for name in names:
        if name in taken:
            raise ValueError(f"learn: expected {name!r} of one learner, got two that learn it; name it in one of them")


def _horizon(banks: Iterable[Bank]) -> float:
    """The decay of lr's trace; 0 without a trace."""
    for bank in banks:
        horizon = bank.learner.horizon
        if LR.name in bank.names:
            return float(horizon)
        if horizon:
            raise ValueError(f"horizon={horizon}: expected 'lr' among the names, whose trace it decays; leave it at 0")
    return 0.0
