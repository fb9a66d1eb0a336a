"""The keys of parameter groups: each takes effect, is a note of the user's or of a scheduler's, or is refused."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mada_optim import checks
from mada_optim.learning.bank import is_memory
from mada_optim.matrices.hidden_matrices import FLAGS
from mada_optim.rule import LR, Rule, option_key
from mada_optim.rules import RULES

Group = dict[str, Any]

#: Keys that every group may have beside the options of the optimizer.
OF_ANY = ("params", "param_names", "matrix", FLAGS)
#: What others call a key of ours.
ALIASES = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "epsilon": "eps",
    "use_muon": "matrix",
    "matrices": "matrix",
    "is_matrix": "matrix",
    "matrix_lr": "matrix_lr_ratio",
}
#: Options of a learner, which no group has of its own.
OF_LEARNERS = ("scope", "bounds")
#: Options of torch's optimizers that change a step, with the value at which they don't.
NEUTRAL = {
    "amsgrad": False,
    "centered": False,
    "dampening": 0,
    "decoupled_weight_decay": True,
    "differentiable": False,
    "momentum": 0,
    "nesterov": False,
}
#: Similarity of two names, of 1, from which one is taken for a misspelling of the other.
ALIKE = 0.8


class GroupKeys:
    """Refuses keys without effect, and translates `betas`, also where they are put into a group later.

    Args:
        owner: The class of the optimizer.
        rule: Its rule.
        learned: The learned coefficients.
        options: The options of each group.
        given: Keywords that the optimizer was constructed with. A group may repeat one, with the very same value, as
            `torch.distributed.optim.ZeroRedundancyOptimizer` does.
    """

    def __init__(
        self, owner: type, rule: Rule, learned: Sequence[str], options: Iterable[str], given: Mapping[str, Any]
    ) -> None:
        self._owner, self._rule = owner.__name__, rule
        self._options = (*options, "betas", *OF_ANY)
        self._learns = bool(learned)
        self._ours = frozenset((*self._options, *map(option_key, learned)))
        self._arguments = frozenset(keywords(owner)) - self._ours
        of_rules = {name for x in RULES.values() for name in (*x.coefficient_names(), *x.hyper_parameters)}
        self._of_others = frozenset((*of_rules, *NEUTRAL, option_key(LR.name))) - self._ours
        self._given: Mapping[str, Any] = given
        self._repeated: frozenset[str] = frozenset()
        self._counts: list[int] = []
        self._betas: list[Any] = []
        self._matrix: list[Any] = []

    def constructed(self) -> bool:
        """Forgets the values of keywords, which need not be what can be copied; whether groups have repeated any."""
        self._given = {}
        return bool(self._repeated)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuses a key that has no effect and looks as if it were meant to have one.

        Raises:
            ValueError: Names the key, and the nearest one.
        """
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
        """The option that `key` is a misspelling of, or another name for; None for a note, such as `lr_scale`."""
        if key in ALIASES:
            return ALIASES[key]
        plain = key.lower()
        if any(f"_{name}_" in f"_{plain}_" for name in self._options if name != plain):
            return None
        return checks.nearest(plain, self._options, ALIKE)

    def added(self, group: Group, betas: object) -> None:
        """Takes notice of a group that the optimizer has just added, and of the `betas` that were translated for it."""
        self._counts.append(len(group))
        self._betas.append(betas)
        self._matrix.append(group.get("matrix"))

    def loaded(self, groups: list[Group]) -> None:
        """Takes notice of groups in the place of those that there were."""
        self._counts, self._betas = [0] * len(groups), [None] * len(groups)
        self._matrix = [group.get("matrix") for group in groups]
        self.settle(groups)

    def settle(self, groups: list[Group]) -> None:
        """Checks the groups that have other keys than before, and translates their `betas` into beta1 and beta2.

        Raises:
            ValueError: A key is refused, or a value; nothing is changed.
        """
        for i, (group, count) in enumerate(zip(groups, self._counts, strict=False)):
            if len(groups) == len(self._matrix) and group.get("matrix") != self._matrix[i]:
                raise ValueError(
                    f"matrix={group.get('matrix')!r} in parameter group {i}: expected {self._matrix[i]!r}, with which "
                    "its state was laid out; put it back, or make the optimizer anew"
                )
            if len(group) != count:
                self._settle(i, group)
                self._counts[i] = len(group)

    def _settle(self, i: int, group: Group) -> None:
        self.check(group)
        betas = group.get("betas")
        if betas is not None and betas is not self._betas[i]:  # a wrapper may put back those that it was given
            group.update(self.translated(betas))
            self._betas[i] = betas
        group.pop("betas", None)

    def translated(self, betas: Any) -> dict[str, float]:
        """`betas` as beta1 and beta2.

        Raises:
            ValueError: It is no pair, the rule has none, or a value is outside.
        """
        named = checks.named_betas(self._rule, betas)
        for q in self._rule.coefficients:
            if q.name in named:
                checks.number(q.name, named[q.name], q.domain, "choose a value inside")
        return named


def keywords(owner: type) -> set[str]:
    """The keywords of a class's constructor, and of those of its bases."""
    inits = [cls.__dict__["__init__"] for cls in owner.__mro__ if "__init__" in cls.__dict__ and cls is not object]
    parameters = [x for init in inits for x in inspect.signature(init).parameters.values()]
    return {x.name for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)} - {"self"}
