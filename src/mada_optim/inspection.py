"""Reads coefficients, hypergradients and slots from an optimizer, and the size of its state."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mada_optim.beta_guard import Guard, betas
from mada_optim.engines import eager
from mada_optim.engines.numbers import learning_rate, scalar
from mada_optim.engines.program import Program
from mada_optim.engines.protocol import StepInput
from mada_optim.layouts import viewing
from mada_optim.learning.bank import is_memory
from mada_optim.learning.banks import Banks
from mada_optim.matrices.hidden_matrices import LR_RATIO, flags, view
from mada_optim.rule import LR, Rule
from mada_optim.sharding import dtensors

Reading = dict[str, float] | dict[str, dict[str, float]]
Group = dict[str, Any]
Groups = list[Group]
States = Mapping[Tensor, dict[str, Tensor]]


class Readings:
    """Reads values off an optimizer's groups and states; changes nothing. `program` has nothing fixed."""

    def __init__(self, program: Program, banks: Banks, guard: Guard | None) -> None:
        self._program, self._banks, self._guard = program, banks, guard

    def coefficients(self, groups: Groups, states: States, home: torch.device) -> Reading:
        """The coefficients by name, as the next step applies them, by the finest scope; computed on `home`."""
        return self._by_scope(lambda group, j: self._coefficients_of(group, j, states, home), groups, states)

    def hypergradients(self, groups: Groups, states: States) -> Reading:
        """The hypergradients of the last step, by the finest scope; 0.0 for coefficients that are not learned."""
        return self._by_scope(self._hypergradients_of, groups, states)

    def slots(self, p: Tensor, groups: Groups, states: States) -> dict[str, Tensor]:
        """Copies of the slots of the parameter `p` after its last update, by name; empty before its first."""
        places = [(group, j) for group in groups for j, x in enumerate(group["params"]) if x is p]
        if not places:
            raise ValueError(
                "slots: expected a parameter of this optimizer, got another object; pass one of its groups"
            )
        if not states.get(p):
            return {}
        ((group, j),) = places
        canvas = eager.canvas(dtensors.local(p))
        program, layout = self._program.of_parameter(group, j), flags(self._program.rule, group)[j]
        options = self._options(view(self._program.rule, group, layout), j)
        g, form = canvas.to(eager.compute_dtype(canvas)), program.form
        rule = form if form.pointwise else viewing(form, layout)
        slots = eager.slots_after_last_update(StepInput(program, rule, canvas, g, states[p], options))
        sharded = eager.per_element_or_row(form)
        return {name: dtensors.like(p, x.clone()) if name in sharded else x.clone() for name, x in slots.items()}

    def memory(self, groups: Groups) -> "MemoryBill":
        """The size of the state that each parameter has, or will have after its first step."""
        return MemoryBill.of(
            (x, eager.new_state(self._program.of_parameter(group, j), eager.canvas(x.detach()).to("meta"), layout))
            for group in groups
            for j, (x, layout) in enumerate(
                zip(map(dtensors.local, group["params"]), flags(self._program.rule, group), strict=True)
            )
        )

    def _by_scope(self, read: Callable[[Group, int], dict[str, float]], groups: Groups, states: States) -> Reading:
        return by_scope(self._banks.scope, groups, read, lambda p: bool(states.get(p)))

    def _options(self, group: MutableMapping[str, Any], parameter: int) -> dict[str, Any]:
        """A group as one of its parameters sees it: with one number for each learned coefficient."""
        of_parameter = {
            key: group[key][parameter] for key in self._banks.per_parameter() if isinstance(group[key], Tensor)
        }
        return {**group, **of_parameter}

    def _coefficients_of(self, group: Group, parameter: int, states: States, home: torch.device) -> dict[str, float]:
        options = self._options(group, parameter)
        values: dict[str, Tensor | float] = {name: options[name] for name in self._program.coefficients}
        if self._guard is not None:
            params = group["params"][parameter : parameter + 1]  # an empty group has none
            t = next((scalar(states[p]["step"], home) for p in params if states.get(p)), scalar(0.0, home))
            values["beta1"], values["beta2"] = betas(options["beta1"], options["beta2"], t + 1, self._guard)
        if LR.name in self._program.learned:
            values[LR.name] = learning_rate({**options, LR_RATIO: 1.0}, home)
        return {name: float(x) for name, x in values.items()}

    def _hypergradients_of(self, group: Group, parameter: int) -> dict[str, float]:
        options, learned = self._options(group, parameter), self._program.learned
        zeros = dict.fromkeys(self._program.coefficients, 0.0)
        return {**zeros, **{q: self._banks.hypergradient(q, options) for q in learned}}


def by_scope(
    scope: str, groups: Groups, read: Callable[[Group, int], dict[str, float]], has_stepped: Callable[[Tensor], bool]
) -> Reading:
    """`read(group, place of a parameter)`, once, or by the name of each group or parameter.

    For several parameters, the first that `has_stepped` is read; before any has, the first that is trained.
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


def _first(groups: Groups, has_stepped: Callable[[Tensor], bool]) -> tuple[Group, int]:
    """A group and a place in it; place 0 of the first group if there is no parameter."""
    places = [(group, j) for group in groups for j in range(len(group["params"]))]

    def rank(place: tuple[Group, int]) -> tuple[bool, bool]:
        p = place[0]["params"][place[1]]
        return has_stepped(p), p.requires_grad

    return max(places, key=rank, default=(groups[0], 0))


def described(name: str, rule: Rule, banks: Banks, groups: Groups) -> str:
    """An optimizer as text: its rule, its learners with their coefficients and scopes, and its groups."""
    lines = [f"{name} (", f"rule: {rule.name}"]
    for x in banks.banks:
        lines.append(f"learned: {', '.join(x.names)}, by {type(x.learner).__name__}, scope {x.scope}")
    lines += [] if banks.banks else ["learned: nothing"]
    for i, group in enumerate(groups):
        lines += ["", f"Parameter Group {i}"]
        for key, x in sorted(group.items()):
            if key not in ("params", "param_names") and not is_memory(key):
                lines.append(f"    {key}: {x.tolist() if isinstance(x, Tensor) else x}")
    return "\n".join([*lines, ")"])


@dataclass(frozen=True)
class MemoryBill:
    """The size of an optimizer's state.

    Attributes:
        parameters: Number of elements of all parameters.
        bytes: Bytes by key of the state.
    """

    parameters: int
    bytes: dict[str, int]

    @classmethod
    def of(cls, states: Iterable[tuple[Tensor, Mapping[str, Tensor]]]) -> "MemoryBill":
        """The bill for parameters with their states; tensors on "meta" will do."""
        parameters, bill = 0, dict[str, int]()
        for p, state in states:
            parameters += p.numel()
            for name, x in state.items():
                bill[name] = bill.get(name, 0) + x.numel() * x.element_size()
        return cls(parameters, bill)

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    def __str__(self) -> str:
        """A table in bytes per parameter."""
        each = max(self.parameters, 1)
        lines = [f"{name:<10}{size / each:8.2f}  {size:>14,}" for name, size in self.bytes.items()]
        head = f"{'':<10}{'per parameter':>8}  {'bytes':>9}"
        return "\n".join([head, *lines, f"{'total':<10}{self.total / each:8.2f}  {self.total:>14,}"])
