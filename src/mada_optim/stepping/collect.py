"""Parameters as engines see them: each with what the rule comes to on it, its state and its options."""

from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim import checks
from mada_optim.engines import eager, fit
from mada_optim.engines.cpp.tensors import PlainSteps
from mada_optim.layouts import Layout
from mada_optim.learning.banks import Banks
from mada_optim.matrices import hidden_matrices
from mada_optim.placement import Placement, intact, stacked
from mada_optim.rule import Rule, option_key
from mada_optim.sharding import dtensors
from mada_optim.stepping.members import Members

Group = Mapping[str, Any]
State = dict[str, Tensor]
Ready = tuple[Tensor, Tensor, int]  # a parameter, its gradient, and its place in its group


class Kind(NamedTuple):
    """What is the same for the parameters of a group that a rule treats alike.

    Attributes:
        form: What the rule comes to for them.
        kept: The keys of their state.
        options: The group as each of its parameters sees it.
        layout: Where their matrices are, if they have hidden ones.
    """

    form: Rule
    kept: frozenset[str]
    options: list[Group]
    layout: Layout


class Cells:
    """The cells of an optimizer's parameters.

    Args:
        owner: Name of the optimizer, for messages.
        rule: The whole rule.
        learned: The learned coefficients.
        memory: What is kept of the last update.
        banks: Where the learned coefficients live.
        state_dtype: The dtype of slots, None for that of computation.
    """

    def __init__(
        self,
        owner: str,
        rule: Rule,
        learned: tuple[str, ...],
        memory: eager.Memory,
        banks: Banks,
        state_dtype: torch.dtype | None,
    ) -> None:
        self._owner, self._rule, self._learned = owner, rule, learned
        self._memory, self._banks, self._state_dtype = memory, banks, state_dtype
        self._numbers: Placement | None = None
        self._plain = PlainSteps()
        self._members = Members(banks.scope if learned else None)
        self._fixed = [q for q in (*rule.coefficient_names(), *rule.hyper_parameters) if q not in learned]

    def adopt(self, groups: list[dict[str, Any]]) -> None:
        """Takes over what was put into a group in place of a learned coefficient.

        Raises:
            RuntimeError: A number of a group has lost its memory, or groups were changed by hand (`Members`).
        """
        if self._numbers is not None and self._numbers.holds([x for _, x in numbers_of(groups)]):
            return
        self._follow(groups)
        self._numbers = None
        for key, x in numbers_of(groups):
            if not intact(x):
                raise RuntimeError(
                    f"parameter group, {key!r}: the storage of the tensor was resized, and lacks the number; "
                    f"set group[{key!r}] anew, or load a state dict"
                )
        self._banks.adopt(groups)
        self._numbers = Placement([x for _, x in numbers_of(groups)])

    def are_as_they_were(self, groups: list[dict[str, Any]]) -> bool:
        """Whether nobody has changed the groups, or their parameters, by hand."""
        return self._members.are_as_they_were(groups)

    def take(self, groups: list[dict[str, Any]]) -> None:
        """Takes notice of groups that were added, loaded or copied."""
        self._members.take(groups)

    def _follow(self, groups: list[dict[str, Any]]) -> None:
        if not self._members.are_as_they_were(groups):
            self._members.follow(groups, lambda changed: hidden_matrices.decided(self._rule, changed))

    def of_step(
        self, groups: list[dict[str, Any]], states: MutableMapping[Tensor, State], begin: bool
    ) -> list[eager.Cell]:
        """What a step moves: the parameters that have a gradient. State is begun where there is none, if `begin`.

        Raises:
            RuntimeError: A gradient is sparse, or doesn't fit its parameter, or groups were changed by hand and what is
                learned can't follow; nothing is changed.
        """
        self._follow(groups)
        ready = [[(p, g, j) for j, p in enumerate(x["params"]) if (g := p.grad) is not None] for x in groups]
        if any(g.is_sparse for of_group in ready for _, g, _ in of_group):
            raise RuntimeError(f"{self._owner} does not support sparse gradients; use torch.optim.SparseAdam")
        if not begin:
            ready = [[(p, g, j) for p, g, j in of_group if states.get(p)] for of_group in ready]
        pairs = [(p, g) for of_group in ready for p, g, _ in of_group]
        plain = self._plain.takes([p for p, _ in pairs], [g for _, g in pairs])
        return [cell for i, x in enumerate(groups) for cell in self._of_group(x, ready[i], states, i, plain)]

    def scopes_of_gradients(self, groups: list[dict[str, Any]]) -> set[int]:
        """Rows of the learned coefficients of the parameters that have a gradient."""
        rows = [self._banks.rows_of(i, len(group["params"])) for i, group in enumerate(groups)]
        pairs = [zip(own, group["params"], strict=True) for own, group in zip(rows, groups, strict=True)]
        return {row for of_group in pairs for row, p in of_group if p.grad is not None}

    def _of_group(
        self, group: dict[str, Any], ready: list[Ready], states: MutableMapping[Tensor, State], i: int, plain: bool
    ) -> list[eager.Cell]:
        flags = hidden_matrices.flags(self._rule, group)
        kinds = {layout: self._kind(group, layout) for layout in {flags[j] for _, _, j in ready}}
        rows = self._banks.rows_of(i, len(flags))
        return [self._cell(p, g, states[p], kinds[flags[j]], j, rows[j], plain) for p, g, j in ready]

    def fixed(self, groups: list[dict[str, Any]]) -> list[Any]:
        """What decides what the rule comes to: its numbers in groups that are not learned."""
        return [group[name] for group in groups for name in self._fixed]

    def form(self, group: Group, parameter: int) -> Rule:
        """What the rule comes to for a parameter."""
        return hidden_matrices.form(
            self._rule, group, self._learned, hidden_matrices.is_hidden(self._rule, group, parameter)
        )

    def options(self, group: Group, parameter: int) -> Group:
        """A group as one of its parameters sees it: with one number for each learned coefficient."""
        own = {key: group[key][parameter] for key in self._banks.per_parameter() if isinstance(group[key], Tensor)}
        return {**group, **own} if own else group

    def new_state(self, form: Rule, canvas: Tensor) -> State:
        """The state of a parameter before its first step."""
        return eager.new_state(form, canvas, self._state_dtype or eager.compute_dtype(canvas), self._memory)

    def slots(self, p: Tensor, state: State, group: Group, parameter: int) -> State:
        """The slots of a parameter after its last update, as copies, by name."""
        seen = eager.canvas(dtensors.local(p))
        g = seen.to(eager.compute_dtype(seen))
        is_matrix = hidden_matrices.is_hidden(self._rule, group, parameter)
        options = self.options(hidden_matrices.seen(self._rule, group, is_matrix), parameter)
        cell = eager.Cell(self.form(group, parameter), seen, g, state, options)
        slots, per_element = eager.slots_after_last_update(cell), eager.per_element(cell.rule)
        return {name: dtensors.like(p, x.clone()) if name in per_element else x.clone() for name, x in slots.items()}

    def _kind(self, group: Group, layout: Layout) -> Kind:
        """Of the hidden weight matrices of a group that have this layout, or of its other tensors."""
        form = hidden_matrices.form(self._rule, group, self._learned, layout)
        options = self._options_of_each(hidden_matrices.seen(self._rule, group, layout))
        return Kind(form, frozenset(eager.state_names(form, self._memory)), options, layout)

    def _options_of_each(self, group: Group) -> list[Group]:
        """What a step needs of `options` for each parameter of a group, made at once: views are dear, one by one."""
        keys = [key for q in self._learned if isinstance(x := group[key := option_key(q)], Tensor) and x.ndim]
        if not keys:
            return [group] * len(group["params"])
        rows = zip(*(group[key].unbind() for key in keys), strict=True)
        return [{**group, **dict(zip(keys, row, strict=True))} for row in rows]

    def _cell(self, p: Tensor, gradient: Tensor, state: State, kind: Kind, j: int, row: int, plain: bool) -> eager.Cell:
        form, kept, options_of_each, layout = kind
        seen, g = (p, gradient) if plain else dtensors.both(p, gradient)
        options = options_of_each[j]
        if not plain and type(seen) in dtensors.WHOLE and type(g) in dtensors.WHOLE and not usable(seen, g):
            if not g._is_zerotensor():
                raise RuntimeError(unusable(seen, g, options, j))
            g = torch.zeros_like(seen)  # torch may leave zeros without memory
        if not g.dtype is seen.dtype is torch.float32 or not p.ndim:  # most need none of it
            seen, g = eager.canvas(seen), eager.canvas(g.resolve_conj())  # torch may conjugate lazily
            g = g.to(eager.compute_dtype(seen))
        if not state:
            state.update(self.new_state(form, seen))
        elif state.keys() != kept:
            self._fit(state, form)
        whole = p if not form.pointwise and dtensors.cut_matrices(p, layout) else None
        return eager.Cell(form, seen, -g if options["maximize"] else g, state, options, row, whole, layout, plain)

    def _fit(self, state: State, form: Rule) -> None:
        """Drops slots that were switched off since: they move no more, and must not be taken up again as they are."""
        checks.slots_present(form, state)
        for name in (set(self._rule.slot_names()) - set(form.slot_names())) & state.keys():
            del state[name]


def numbers_of(groups: list[dict[str, Any]]) -> list[tuple[str, Tensor]]:
    """What groups have as tensors, with its keys."""
    return [(key, x) for group in groups for key, x in group.items() if isinstance(x, Tensor)]


def usable(p: Tensor, g: Tensor) -> bool:
    """Whether both have their memory, and the gradient is laid over the parameter; both may have changed in place."""
    return g.shape == p.shape and g.device == p.device and intact(p) and intact(g) and not stacked(p)


def unusable(p: Tensor, g: Tensor, options: Group, j: int) -> str:
    """The error of a parameter and a gradient that aren't usable."""
    name = options["param_names"][j] if "param_names" in options else f"{j} of its group"
    fault = fit.fault_of(p, tuple(p.shape), p)
    where = (
        f"parameter {name}: {fault}" if fault else f"gradient of parameter {name}: {fit.fault_of(g, tuple(p.shape), p)}"
    )
    return f"{where}; restore it before the step, or set the gradient to None"
