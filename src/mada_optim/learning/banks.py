"""All that an optimizer learns: a bank for each of its learners."""

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

#: What may be given as `learn`.
Learn = str | Learner | Iterable[str | Learner]
#: From the coarsest to the finest.
SCOPES = ("global", "group", "tensor")


def learners_of(learn: Learn) -> list[Learner]:
    """The learners that `learn` asks for; names mean the paper's.

    Raises:
        ValueError: It holds what is neither a name nor a learner, or is a dict, whose values would have no effect.
    """
    if isinstance(learn, str | Learner):
        learn = (learn,)
    given = list(learn) if isinstance(learn, Iterable) and not isinstance(learn, Mapping) else [learn]
    names = [x for x in given if isinstance(x, str)]
    wrong = [x for x in given if not isinstance(x, str | Learner)]
    if wrong:
        raise ValueError(
            f'learn={wrong[0]!r}: expected names of coefficients, "all" or (), a learner such as HyperSGD("beta1"), or '
            "a list of these"
        )
    return [x for x in given if isinstance(x, Learner)] + ([HyperSGD(*names)] if names else [])


class Banks:
    """The learned coefficients of an optimizer.

    Args:
        rule: Its rule.
        learn: What is learned, and how.

    Raises:
        ValueError: A name is none of the rule's coefficients, or is given to two learners, or bounds don't fit.
    """

    def __init__(self, rule: Rule, learn: Learn) -> None:
        self.intervals: dict[str, Interval] = {}
        given: list[tuple[Learner, dict[str, Interval]]] = []
        for learner in learners_of(learn):
            _require_declared(learner)
            names = checks.learned_names(rule, learner.names)
            _require_apart(names, self.intervals)
            own = checks.intervals(rule, learner.bounds, names)
            self.intervals.update(own)
            if own:  # "all" is none of a rule without coefficients
                given.append((learner, own))
        #: The learned coefficients, in the rule's order, lr last.
        self.names = tuple(q for q in (*rule.coefficient_names(), LR.name) if q in self.intervals)
        self._banks = _numbered(given, {q.name: q.hyper_lr for q in (*rule.coefficients, LR)})
        #: The finest scope: the rows of hypergradients, and what readings are given by.
        self.scope = max((bank.scope for bank in self._banks), key=SCOPES.index, default="global")
        self.horizon = _horizon(self._banks)

    @property
    def learners(self) -> tuple[Learner, ...]:
        """What moves them."""
        return tuple(bank.learner for bank in self._banks)

    @property
    def banks(self) -> Sequence[Bank]:
        """One for each learner."""
        return self._banks

    @property
    def by_number(self) -> Sequence[Bank]:
        """One for each learner, in whatever order these were given: that of state dicts."""
        return sorted(self._banks, key=lambda bank: bank.number)

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that work for a learner."""
        return [x for bank in self._banks for x in bank.optimizers]

    def names_by_key(self) -> dict[str, list[str]]:
        """The names of each bank's coefficients, as the groups of a state dict have them."""
        return {bank.learned_key: list(bank.names) for bank in self.by_number}

    @property
    def finest(self) -> Bank | None:
        """A bank of the finest scope."""
        return next((bank for bank in self._banks if bank.scope == self.scope), None)

    @property
    def rows(self) -> int:
        """Rows of the finest scope."""
        return 0 if self.finest is None else self.finest.rows

    def learned_by(self) -> list[tuple[tuple[str, ...], str, str]]:
        """What each learner learns: names of coefficients, its class, and its scope."""
        return [(bank.names, type(bank.learner).__name__, bank.scope) for bank in self._banks]

    def columns(self) -> dict[str, Tensor]:
        """What all banks hold, by key in a group."""
        return {key: x for bank in self._banks for key, x in bank.columns.items()}

    def per_parameter(self) -> list[str]:
        """The keys of what groups hold for each of their parameters."""
        return [key for bank in self._banks if bank.scope == "tensor" for key in bank.columns]

    def rows_of(self, group: int, parameters: int) -> Sequence[int]:
        """The row of each of a group's parameters, of the finest scope; 0 where nothing is learned."""
        return [0] * parameters if self.finest is None else self.finest.rows_of(group, parameters)

    def add_group(self, start: Mapping[str, Tensor], parameters: int) -> None:
        """Makes room for a new group of so many parameters, whose coefficients start at `start`, 0-d, by name."""
        for bank in self._banks:
            bank.add_group(start, parameters)

    def begin(self, lr_floor: float | None) -> None:
        """Makes the learners' memories; `lr_floor` is as in `StepInfo`, None where shapes say nothing."""
        for bank in self._banks:
            bank.begin(lr_floor)

    def attach(self, groups: list[dict[str, Any]]) -> None:
        """Gives each group its views."""
        for bank in self._banks:
            bank.attach(groups)

    def adopt(self, groups: list[dict[str, Any]]) -> None:
        """Takes over what was put into a group in the place of a view."""
        for bank in self._banks:
            bank.adopt(groups)

    def hypergradient(self, name: str, options: Mapping[str, Any]) -> float:
        """The last one of a coefficient, from a group as one of its parameters sees it."""
        bank = next(x for x in self._banks if name in x.names)
        return float(options[bank.hypergradient_key][bank.names.index(name)])

    def step(self, h: Tensor, counts: Tensor, lrs: Callable[[], Sequence[Tensor]]) -> None:
        """A hyper-step of every learner.

        Args:
            h: Hypergradients, (rows, names) of the finest scope.
            counts: Whether the step counts, (rows,).
            lrs: Gives the scheduled lr of each group, 0-d.
        """
        columns = dict(zip(self.names, h.unbind(-1), strict=True))
        for bank in self._banks:  # not indexed by a list, whose way to the device the host would wait for
            own = h if bank.names == self.names else torch.stack([columns[q] for q in bank.names], dim=-1)
            hyper_step(bank, *self._coarser(bank, own, counts), lrs)

    def _coarser(self, bank: Bank, h: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Hypergradients summed over the rows of each of the bank's, and whether the step counts for any of these."""
        if bank.scope == self.scope:
            return h, counts
        if bank.scope == "global":
            return h.sum(0, keepdim=True), counts.any().reshape(1)
        assert self.finest is not None
        parts = [place for place in self.finest.places if isinstance(place, slice)]
        return torch.stack([h[x].sum(0) for x in parts]), torch.stack([counts[x].any() for x in parts])


def _require_declared(learner: Learner) -> None:
    """Checks what learners of third parties may say of themselves; ours are checked when they are made."""
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
    """A bank for each learner; they are numbered by the first of their coefficients."""
    order = list(rates)
    firsts = [min(order.index(q) for q in intervals) for _, intervals in given]
    numbers = [sorted(firsts).index(first) for first in firsts]
    return [Bank(*one, rates, number) for one, number in zip(given, numbers, strict=True)]


def _require_apart(names: Iterable[str], taken: Iterable[str]) -> None:
    for name in names:
        if name in taken:
            raise ValueError(f"learn: expected {name!r} of one learner, got two that learn it; name it in one of them")


def _horizon(banks: Iterable[Bank]) -> float:
    """The decay of lr's trace; 0 where there is none."""
    for bank in banks:
        learner = bank.learner
        if LR.name in bank.names:
            return float(learner.horizon)
        if learner.horizon:
            raise ValueError(
                f"horizon={learner.horizon}: expected 'lr' among the names, whose trace it decays; leave it at 0"
            )
    return 0.0
