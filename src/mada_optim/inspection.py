"""What a user may read off an optimizer: coefficients and hypergradients by scope, and the bill of its state."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mada_optim.learning.bank import is_memory
from mada_optim.rule import Rule

Reading = dict[str, float] | dict[str, dict[str, float]]
Groups = list[dict[str, Any]]


def by_scope(
    scope: str,
    groups: Groups,
    read: Callable[[Mapping[str, Any], int], dict[str, float]],
    has_stepped: Callable[[Tensor], bool],
) -> Reading:
    """What `read(group, place of a parameter)` gives: once, or by name of the group or of the parameter.

    Of several parameters, the first that `has_stepped` is read; before any has, the first that is trained.
    """
    if scope == "global":
        return read(*_first(groups, has_stepped))
    if scope == "group":
        places = [(str(group.get("name", i)), str(i), *_first([group], has_stepped)) for i, group in enumerate(groups)]
    else:
        places = [
            (name, f"{i}.{j}", group, j)
            for i, group in enumerate(groups)
            for j, name in enumerate(group.get("param_names", [f"{i}.{j}" for j in range(len(group["params"]))]))
        ]
    count = Counter(name for name, *_ in places)
    return {name if count[name] == 1 else f"{name} ({place})": read(group, j) for name, place, group, j in places}


def _first(groups: Groups, has_stepped: Callable[[Tensor], bool]) -> tuple[Mapping[str, Any], int]:
    """A group and a place in it; place 0 of the first group where there is no parameter."""
    places = [(group, j) for group in groups for j in range(len(group["params"]))]

    def rank(place: tuple[Mapping[str, Any], int]) -> tuple[bool, bool]:
        p = place[0]["params"][place[1]]
        return has_stepped(p), p.requires_grad

    return max(places, key=rank, default=(groups[0], 0))


def described(name: str, rule: Rule, learned_by: Iterable[tuple[tuple[str, ...], str, str]], groups: Groups) -> str:
    """An optimizer as text: its rule, what is learned of it by which learner over which scope, and its groups."""
    lines = [f"{name} (", f"rule: {rule.name}"]
    learned = [f"learned: {', '.join(names)}, by {learner}, scope {scope}" for names, learner, scope in learned_by]
    lines += learned or ["learned: nothing"]
    for i, group in enumerate(groups):
        options = {key: x for key, x in group.items() if key not in ("params", "param_names") and not is_memory(key)}
        own = [f"    {key}: {x.tolist() if isinstance(x, Tensor) else x}" for key, x in sorted(options.items())]
        lines += ["", f"Parameter Group {i}", *own]
    return "\n".join([*lines, ")"])


@dataclass(frozen=True)
class Bill:
    """What an optimizer's state costs.

    Attributes:
        parameters: Number of elements of all parameters.
        bytes: By name of what is kept for each parameter, in bytes.
    """

    parameters: int
    bytes: dict[str, int]

    @classmethod
    def of(cls, states: Iterable[tuple[Tensor, Mapping[str, Tensor]]]) -> "Bill":
        """The bill for parameters with the state that each has, or would have (tensors on "meta" do)."""
        parameters, bill = 0, dict[str, int]()
        for p, state in states:
            parameters += p.numel()
            for name, x in state.items():
                bill[name] = bill.get(name, 0) + x.numel() * x.element_size()
        return cls(parameters, bill)

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return sum(self.bytes.values())

    def __str__(self) -> str:
        """A table in bytes per parameter."""
        each = max(self.parameters, 1)
        lines = [f"{name:<10}{size / each:8.2f}  {size:>14,}" for name, size in self.bytes.items()]
        head = f"{'':<10}{'per parameter':>8}  {'bytes':>9}"
        return "\n".join([head, *lines, f"{'total':<10}{self.total / each:8.2f}  {self.total:>14,}"])
