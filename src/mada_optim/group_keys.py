"""Checks the keys of parameter groups: a key takes effect, is a note of the user or of a scheduler, or is refused."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from mada_optim import checks
from mada_optim.beta_guard import Guard
from mada_optim.learning.bank import is_memory
from mada_optim.learning.banks import Banks
from mada_optim.matrices.hidden_matrices import FLAGS
from mada_optim.rule import LR, Rule, option_key
from mada_optim.rules import RULES

Group = dict[str, Any]

#: Keys that every group may have, beside the options of the optimizer.
OF_ANY = ("params", "param_names", "matrix", FLAGS)
#: Our keys, by the names that other libraries use.
ALIASES = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "epsilon": "eps",
    "use_muon": "matrix",
    "matrices": "matrix",
    "is_matrix": "matrix",
    "matrix_lr": "matrix_lr_ratio",
}
#: Options of a learner, which a group can't set.
OF_LEARNERS = ("scope", "bounds")
#: Options of torch's optimizers, with the value at which they change nothing.
NEUTRAL = {
    "amsgrad": False,
    "centered": False,
    "dampening": 0,
    "decoupled_weight_decay": True,
    "differentiable": False,
    "momentum": 0,
    "nesterov": False,
}
#: Least similarity, of at most 1, for a name to count as a misspelling of another.
ALIKE = 0.8


class GroupKeys:
    """Refuses keys without effect, and translates `betas`, also in groups that are changed later.

    `owner` is the optimizer's class, `options` are the options of each group, `given` the keywords of the constructor.
    A group may repeat a keyword with the same object as its value, as `ZeroRedundancyOptimizer` does.
    """

    def __init__(self, owner: type, rule: Rule, banks: Banks, options: Iterable[str], given: Mapping[str, Any]) -> None:
        self._owner, self._rule, self._banks = owner.__name__, rule, banks
        self._options = (*options, "betas", *OF_ANY)
        self._learns = bool(banks.names)
        self._ours = frozenset((*self._options, *map(option_key, banks.names)))
        self._arguments = frozenset(keywords(owner)) - self._ours
        of_rules = {name for x in RULES.values() for name in (*x.coefficient_names(), *x.hyper_parameters)}
        self._of_others = frozenset((*of_rules, *NEUTRAL, option_key(LR.name))) - self._ours
        self._given: Mapping[str, Any] = given
        self._repeated: frozenset[str] = frozenset()
        self._betas: list[Any] = []
        self._matrix: list[Any] = []

    def end_construction(self) -> bool:
        """Forgets the keywords, which may be impossible to copy; returns whether groups have repeated any."""
        self._given = {}
        return bool(self._repeated)

    def complete(self, group: Mapping[str, Any], defaults: Mapping[str, Any], guard: Guard | None) -> Group:
        """A new group with `betas` as beta1 and beta2. Raises ValueError for a key without effect, or a bad value."""
        self.check(group)
        if "params" not in group:
            raise ValueError("a parameter group: expected the key 'params', got none; name the parameters there")
        given = {key: group[key] for key in ("betas", "beta1", "beta2") if key in group}
        completed = {key: x for key, x in group.items() if key != "betas"} | checks.rule_keywords(self._rule, given)
        if isinstance(completed["params"], Iterator):  # can be read once
            completed["params"] = list(completed["params"])
        options = {**defaults, **completed}
        checks.group(self._rule, options, self._banks.intervals)
        checks.has_effect(self._rule, options, self._banks.horizon > 0)
        if guard is not None:
            guard.require_used(options["beta2"])
        return completed

    def check_later(self, group: Group, first: Group) -> None:
        """Refuses a later group (ValueError) that can't share the learned coefficients; `first` is the first group."""
        for bank in self._banks.banks:
            if bank.scope == "global":
                checks.ties({q: x for q, x in group.items() if q in bank.names}, first)
            checks.room(bool(bank.optimizers), bank.scope)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuses a key (ValueError) that looks like an option and has no effect; names the nearest option."""
        for key, x in group.items():
            if key in self._ours or key in self._repeated or not isinstance(key, str):
                continue
            if is_memory(key) and self._learns and isinstance(x, Tensor | list):  # as in groups of another optimizer
                continue
            if key in self._given and self._given[key] is x:
                self._repeated |= {key}
                continue
            self._check_foreign(key, x)

    def _check_foreign(self, key: str, x: object) -> None:
        where = f"{key}={x!r} in a parameter group"
        if key in self._arguments:
            raise ValueError(f"{where}: expected at construction, for all groups; pass {key} to {self._owner}")
        if key in OF_LEARNERS:
            raise ValueError(f"{where}: expected as an option of a learner; learn=HyperSGD('all', {key}={x!r}), say")
        if (key in self._of_others or is_memory(key)) and not (key in NEUTRAL and NEUTRAL[key] == x):
            names = ", ".join((*self._rule.coefficient_names(), *self._rule.hyper_parameters)) or "none"
            raise ValueError(
                f"{where}: {self._owner} with the rule {self._rule.name!r} has no such option (of the rule: {names}); "
                "leave it out, or choose another rule"
            )
        near = None if key in NEUTRAL else self._nearest(key)
        if near is not None:
            raise ValueError(f"{where}: {self._owner} has no such option, which would have no effect; use {near!r}")

    def _nearest(self, key: str) -> str | None:
        """The option that `key` misspells or is another name for; None for a note, such as `lr_scale`."""
        if key in ALIASES:
            return ALIASES[key]
        plain = key.lower()
        if any(f"_{name}_" in f"_{plain}_" for name in self._options if name != plain):
            return None
        return checks.nearest(plain, self._options, ALIKE)

    def added(self, group: Group, betas: object) -> None:
        """Remembers a group that was added, and the `betas` that were translated for it."""
        self._betas.append(betas)
        self._matrix.append(group.get("matrix"))

    def loaded(self, groups: list[Group], defaults: Mapping[str, Any]) -> None:
        """Takes over groups that replace all others, and adds options that an older version didn't have."""
        for group in groups:
            missing = [name for name in self._options if name in defaults and name not in group]
            group.update({name: defaults[name] for name in missing})
        self._betas = [None] * len(groups)
        self._matrix = [group.get("matrix") for group in groups]
        self.settle(groups)

    def settle(self, groups: list[Group]) -> None:
        """Checks groups after a change, and translates their `betas`. Raises ValueError; nothing is changed."""
        for i, group in enumerate(groups[: len(self._betas)]):
            if len(groups) == len(self._matrix) and group.get("matrix") != self._matrix[i]:
                raise ValueError(
                    f"matrix={group.get('matrix')!r} in parameter group {i}: expected {self._matrix[i]!r}, with which "
                    "its state was laid out; put it back, or make the optimizer anew"
                )
            self.check(group)
            betas = group.get("betas")
            if betas is not None and betas is not self._betas[i]:  # a wrapper may put back those that it was given
                group.update(self.translated(betas))
                self._betas[i] = betas
            group.pop("betas", None)

    def translated(self, betas: Any) -> dict[str, float]:
        """`betas` as beta1 and beta2. Raises ValueError if it is no pair, the rule has none, or a value is outside."""
        named = checks.named_betas(self._rule, betas)
        for q in self._rule.coefficients:
            if q.name in named:
                checks.number(q.name, named[q.name], q.domain, "choose a value inside")
        return named


def keywords(owner: type) -> set[str]:
    """The keywords of a class's constructor, and of the constructors of its bases."""
    inits = [cls.__dict__["__init__"] for cls in owner.__mro__ if "__init__" in cls.__dict__ and cls is not object]
    parameters = [x for init in inits for x in inspect.signature(init).parameters.values()]
    return {x.name for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)} - {"self"}
