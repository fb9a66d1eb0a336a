"""Collects, for each parameter, its specialized rule, kernel, state and options for one step."""

import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim import checks, modes
from mada_optim.engines import eager, eight_bits, rounding
from mada_optim.engines.cpp.tensors import PlainSteps
from mada_optim.engines.program import Program
from mada_optim.engines.protocol import Kernel, ReplicatedBatch, StepInput, TensorBatch
from mada_optim.layouts import Layout
from mada_optim.learning.banks import Banks
from mada_optim.matrices import hidden_matrices
from mada_optim.placement import fault_of, intact, stacked
from mada_optim.rule import option_key
from mada_optim.sharding import dtensors, exchange
from mada_optim.stepping.dispatch import Dispatcher
from mada_optim.stepping.members import Members

Group = dict[str, Any]
Options = MutableMapping[str, Any]
State = dict[str, Tensor]
Ready = tuple[Tensor, Tensor, int]  # a parameter, its gradient, and its place in its group


FIRST_STEP = "expected a step with these gradients before it, which makes state and counts, got none; step once before"


class SpecializedGroup(NamedTuple):
    """The parameters of a group that share a layout, so that the rule has one form for them."""

    program: Program  # the program that moves them
    kernel: Kernel  # runs it
    layout: Layout  # where their matrices are, if they are hidden matrices
    options: Options  # the group as they see it


class StepCollector:
    """Collects an optimizer's parameters for its steps; the arguments are as of `Stepper` and `Members`."""

    def __init__(
        self,
        owner: str,
        program: Program,
        banks: Banks,
        dispatcher: Dispatcher,
        settle_keys: Callable[[list[Group]], None],
        is_summed: bool,
    ) -> None:
        self._owner, self._program, self._banks, self._dispatcher = owner, program, banks, dispatcher
        self._settle_keys = settle_keys
        self._plain = PlainSteps()
        self._has_told_of_gathering = False
        self._members = Members(owner, banks.scope if program.learned else None, is_summed)
        self._layouts: list[list[Layout]] = []
        self._rows: list[Sequence[int]] = []
        self._firsts: list[int] = []  # the number of each group's first parameter
        self._specialized: list[dict[Layout, SpecializedGroup]] = []
        options = (*program.coefficients, *program.rule.hyper_parameters)
        self._learned_keys = list(map(option_key, program.learned))
        #: Whether the options of a `StepInput` show later changes of its group: without copies for single parameters.
        self.options_are_live = banks.scope != "tensor"
        #: Keys of the values in a group that decide how its parameters are collected.
        fixed = (q for q in options if q not in program.learned)
        self.deciding = ("maximize", "matrix", hidden_matrices.FLAGS, hidden_matrices.LR_RATIO, "horizon", *fixed)

    def take(self, groups: list[Group]) -> None:
        self._members.take(groups)

    def has_members(self, groups: list[Group]) -> bool:
        """Whether the groups have the parameters that they had, in the same order."""
        return self._members.are_as_they_were(groups)

    def follow(self, groups: list[Group]) -> None:
        """Applies a user's changes of the groups: keys, parameters, learned coefficients.

        Raises ValueError for a key or a value, and RuntimeError if a tensor in a group has lost its memory, or learned
        coefficients can't follow.
        """
        self._settle_keys(groups)
        if not self.has_members(groups):
            self._members.follow(groups, lambda changed: hidden_matrices.decided(self._program.rule, changed))
        for group in groups:
            checks.has_effect(self._program.rule, group, self._program.traced)
        for key, x in chain.from_iterable(group.items() for group in groups):
            if isinstance(x, Tensor) and not intact(x):
                raise RuntimeError(
                    f"parameter group, {key!r}: the storage of the tensor was resized, and lacks the number; "
                    f"set group[{key!r}] anew, or load a state dict"
                )
        self._banks.adopt(groups)
        self._layouts = [hidden_matrices.flags(self._program.rule, group) for group in groups]
        self._rows = [self._banks.rows_of(i, len(group["params"])) for i, group in enumerate(groups)]
        self._specialized = [{} for _ in groups]
        self._firsts = [0, *accumulate(len(group["params"]) for group in groups)]

    def prepare_kernels(self, group: Group, device: torch.device) -> None:
        """Chooses and compiles the kernels of a new group. Raises ValueError if the engine can't run the rule."""
        for layout in set(hidden_matrices.flags(self._program.rule, group)):
            self._dispatcher.prepare(self._program.fixed_in(group, layout), device)

    def batches(
        self,
        groups: list[Group],
        states: MutableMapping[Tensor, State],
        begin: bool,
        replicas_of: Callable[[Tensor], int] | None,
    ) -> list[tuple[TensorBatch, list[StepInput]]]:
        """The parameters with a gradient: a batch for each kernel, the eager engine's last, with its inputs.

        `begin` gives a state to parameters without one; else they are left out. `replicas_of` says how many processes
        have the same numbers of a parameter (None: one), which are as many for all in a batch. Raises RuntimeError if a
        gradient is sparse, or a gradient or a state doesn't fit; nothing is changed.
        """
        by_kernel: dict[Kernel, dict[int, tuple[list[StepInput], list[Any]]]] = {}
        last = self._dispatcher.eager
        for kernel, p, entry in self._inputs(groups, states, begin):
            prepared = kernel.prepare(entry)
            if prepared is None:
                kernel, prepared = last, last.prepare(entry)
            replicas = 1 if replicas_of is None else replicas_of(p)
            taken, of_each = by_kernel.setdefault(kernel, {}).setdefault(replicas, ([], []))
            taken.append(entry)
            of_each.append(prepared)
        wholes = [x.whole for parts in by_kernel.values() for taken, _ in parts.values() for x in taken]
        self._tell_of_gathering([x for x in wholes if x is not None])
        for kernel, parts in by_kernel.items():
            kernel.forget_others(*(list(chain.from_iterable(x)) for x in zip(*parts.values(), strict=True)))
        return [
            (kernel.batch(*part) if replicas == 1 else ReplicatedBatch(kernel.batch(*part), replicas), part[0])
            for kernel in sorted(by_kernel, key=lambda kernel: kernel is last)
            for replicas, part in by_kernel[kernel].items()
        ]

    def _tell_of_gathering(self, wholes: list[Tensor]) -> None:
        """Warns once of matrices that each process gathers."""
        if not self._has_told_of_gathering and wholes and (text := exchange.gathered_whole(wholes)):
            self._has_told_of_gathering = True
            self._dispatcher.reasons.append(text)
            warnings.warn(f"{self._owner}: {text}", stacklevel=2)

    def _inputs(
        self, groups: list[Group], states: MutableMapping[Tensor, State], begin: bool
    ) -> list[tuple[Kernel, Tensor, StepInput]]:
        ready = [[(p, g, j) for j, p in enumerate(x["params"]) if (g := p.grad) is not None] for x in groups]
        if any(g.is_sparse for of_group in ready for _, g, _ in of_group):
            raise RuntimeError(f"{self._owner} does not support sparse gradients; use torch.optim.SparseAdam")
        if not begin:
            ready = [[(p, g, j) for p, g, j in of_group if states.get(p)] for of_group in ready]
        pairs = [(p, g) for of_group in ready for p, g, _ in of_group]
        plain = self._plain.takes([p for p, _ in pairs], [g for _, g in pairs])
        return [x for i, group in enumerate(groups) for x in self._of_group(i, group, ready[i], states, plain)]

    def scopes_of_gradients(self, groups: list[Group]) -> set[int]:
        """Rows of the learned coefficients of the parameters that have a gradient."""
        pairs = (zip(rows, group["params"], strict=True) for rows, group in zip(self._rows, groups, strict=True))
        return {row for row, p in chain.from_iterable(pairs) if p.grad is not None}

    def _specialize(self, i: int, group: Group, layout: Layout, device: torch.device) -> SpecializedGroup:
        """The rule as it is for a layout in a group: decided once, until the group changes."""
        known = self._specialized[i]
        if layout not in known:
            rule = self._program.rule
            program, kernel = self._dispatcher.prepare(self._program.fixed_in(group, layout), device)
            known[layout] = SpecializedGroup(program, kernel, layout, hidden_matrices.view(rule, group, layout))
        return known[layout]

    def _of_group(
        self, i: int, group: Group, ready: list[Ready], states: MutableMapping[Tensor, State], plain: bool
    ) -> list[tuple[Kernel, Tensor, StepInput]]:
        layouts, rows = self._layouts[i], self._rows[i]
        devices = {layouts[j]: p.device for p, _, j in ready}
        parts = {layout: self._specialize(i, group, layout, device) for layout, device in devices.items()}
        options = {layout: self._options_of_each(part.options) for layout, part in parts.items()}
        collected = []
        for p, g, j in ready:
            part = parts[layouts[j]]
            entry = self._input(p, g, states[p], part, options[part.layout][j], rows[j], j, plain)
            if part.program.weights is not None:
                number = self._firsts[i] + j
                entry = entry._replace(stream=rounding.stream(-1 - number, dtensors.first_element(p)))
            collected.append((part.kernel, p, entry))
        return collected

    def _options_of_each(self, options: Options) -> list[Options]:
        """The options of each parameter of a group. All views are made at once: one by one they are slow."""
        keys = [key for key in self._learned_keys if isinstance(x := options[key], Tensor) and x.ndim]
        if not keys:
            return [options] * len(options["params"])
        rows = zip(*(options[key].unbind() for key in keys), strict=True)
        return [{**options, **dict(zip(keys, row, strict=True))} for row in rows]

    def _input(
        self,
        p: Tensor,
        gradient: Tensor,
        state: State,
        part: SpecializedGroup,
        options: Options,
        row: int,
        j: int,
        plain: bool,
    ) -> StepInput:
        program, layout = part.program, part.layout
        canvas, g = (p, gradient) if plain else dtensors.both(p, gradient)
        if not plain and type(canvas) in dtensors.WHOLE and type(g) in dtensors.WHOLE and not usable(canvas, g):
            if not g._is_zerotensor():
                raise RuntimeError(unusable(canvas, g, options, j))
            g = torch.zeros_like(canvas)  # torch may leave zeros without memory
        if not g.dtype is canvas.dtype is torch.float32 or not p.ndim:  # most tensors need none of this
            canvas, g = eager.canvas(canvas), eager.canvas(g.resolve_conj())  # torch may conjugate lazily
            g = g.to(eager.compute_dtype(canvas))
        if not state:
            modes.refuse_capture(p.device, FIRST_STEP)
            state.update(eager.new_state(program, canvas, layout))
        elif state.keys() != program.state_keys:
            self._drop_idle_slots(state, program)
        whole = p if not program.form.pointwise and dtensors.cut_matrices(p, layout) else None
        g = -g if options["maximize"] else g
        return StepInput(program, program.form, canvas, g, state, options, row, whole, layout, plain)

    def _drop_idle_slots(self, state: State, program: Program) -> None:
        """Drops slots that were switched off since: they no longer move, so they must not be used again."""
        checks.slots_present(program.form, state)
        for name in (set(self._program.rule.slot_names()) - set(program.form.slot_names())) & state.keys():
            del state[name]
            state.pop(name + eight_bits.SUFFIX, None)


def usable(p: Tensor, g: Tensor) -> bool:
    """Whether parameter and gradient have their memory, and the same shape and device; both may change in place."""
    return g.shape == p.shape and g.device == p.device and intact(p) and intact(g) and not stacked(p)


def unusable(p: Tensor, g: Tensor, options: Mapping[str, Any], j: int) -> str:
    """The error message for a parameter and a gradient that aren't usable."""
    name = options["param_names"][j] if "param_names" in options else f"{j} of its group"
    fault = fault_of(p, tuple(p.shape), p)
    where = f"parameter {name}: {fault}" if fault else f"gradient of parameter {name}: {fault_of(g, tuple(p.shape), p)}"
    return f"{where}; restore it before the step, or set the gradient to None"
