"""State dicts: completed when an optimizer saves them, checked and reordered when it loads them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_optim import load_by_name
from mada_optim.engines import eager, eight_bits
from mada_optim.engines.program import Program
from mada_optim.layouts import Layout, settled
from mada_optim.learning.bank import LEARNED, is_memory
from mada_optim.learning.banks import Banks
from mada_optim.learning.tower_state import fitting
from mada_optim.matrices import hidden_matrices
from mada_optim.rule import Rule, option_key
from mada_optim.sharding import dtensors

Group = dict[str, Any]


class StateDicts:
    """Adds DTensors, names, and the states of towers to the state dicts of torch.optim."""

    def __init__(self, program: Program, banks: Banks) -> None:
        self._program, self._banks = program, banks
        self._incoming: dict[str, Any] = {}

    @contextmanager
    def saving(self, optimizer: Optimizer) -> Iterator[None]:
        """While `optimizer` makes its state dict: completes it, before the user's hooks see it."""
        hook = optimizer.register_state_dict_post_hook(
            lambda _, state_dict: self._completed(optimizer.param_groups, state_dict), prepend=True
        )
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def loading(self, optimizer: Optimizer, check_group: Callable[[Group], None]) -> Iterator[None]:
        """While `optimizer` loads a state dict: checks and reorders it, after the user's hooks. Raises ValueError."""

        def receive(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
            self._incoming = self._arranged_and_checked(optimizer.param_groups, state_dict)
            for group in self._incoming["param_groups"]:
                check_group(group)
            return self._incoming

        hook = optimizer.register_load_state_dict_pre_hook(receive)
        try:
            yield
        finally:
            hook.remove()
            self._incoming = {}

    def restore(self, groups: list[Group], states: MutableMapping[Tensor, Any]) -> None:
        """Replaces states that torch has loaded, and perhaps rounded, and loads the towers."""
        states.update(restored(groups, self._incoming, self._program))
        for key, optimizer in self._towers():
            optimizer.load_state_dict(self._incoming[key])

    def _completed(self, groups: list[Group], state_dict: dict[str, Any]) -> dict[str, Any]:
        """Copies the tensors in groups, makes DTensors of local shards, and adds the names and towers of learners."""
        names = self._banks.names_by_key()
        state_dict["param_groups"] = [
            {**{key: x.clone() if isinstance(x, Tensor) else x for key, x in group.items()}, **names}
            for group in state_dict["param_groups"]
        ]
        state_dict["state"] = whole(groups, state_dict, self._program.rule)
        return state_dict | {key: optimizer.state_dict() for key, optimizer in self._towers()}

    def _arranged_and_checked(self, groups: list[Group], state_dict: dict[str, Any]) -> dict[str, Any]:
        for key in ("state", "param_groups"):
            if key not in state_dict:
                raise ValueError(f"state dict: expected the key {key!r}, got none; pass what opt.state_dict() returned")
        state_dict = unpacked(state_dict, self._program.rule)
        order, towers = load_by_name.order(groups, state_dict), self._towers()
        if order is not None:
            state_dict = self._arranged(groups, state_dict, order)
        if towers:
            state_dict = without_idle_velocity(groups, state_dict)
        state_dict = unlabeled(self._banks.names_by_key(), state_dict)
        check(self._program, groups, state_dict, len(towers))
        return state_dict | {key: fitting(key, optimizer, state_dict[key]) for key, optimizer in towers}

    def _towers(self) -> list[tuple[str, Optimizer]]:
        """The optimizers of learners, with the keys of their states."""
        optimizers = [x for bank in self._banks.by_number for x in bank.optimizers]
        return list(zip(tower_keys(len(optimizers)), optimizers, strict=True))

    def _arranged(
        self, groups: list[Group], state_dict: Mapping[str, Any], order: load_by_name.Order
    ) -> dict[str, Any]:
        """A state in the order of our parameters; so are the states of towers with a row for each scope."""
        of_each = (hidden_matrices.FLAGS, *self._banks.per_parameter())
        arranged = load_by_name.arranged(groups, state_dict, order, of_each)
        scopes = [bank.scope for bank in self._banks.by_number for _ in bank.optimizers]
        for scope, (key, above) in zip(scopes, self._towers(), strict=True):
            rows = {"tensor": order.rows, "group": order.groups}.get(scope)
            if rows and key in arranged:
                rule = getattr(above, "rule", None)
                saved, per_row = arranged[key], None
                if isinstance(rule, Rule):
                    saved, per_row = unpacked(saved, rule), eager.per_element_or_row(rule)
                arranged[key] = load_by_name.rearranged_rows(saved, rows, per_row)
        return arranged


def whole(groups: list[Group], state_dict: Mapping[str, Any], rule: Rule) -> dict[Any, Any]:
    """The state in `state_dict`, with DTensors in place of the shards of sharded parameters.

    What is in 8 bits there is saved in fp32: other processes would have other blocks. Loading it packs it again, to the
    same bits if the shards are the same.
    """
    sharded, states = eager.per_element_or_row(rule), dict(state_dict["state"])
    for p, key in _keys(groups, state_dict):
        if key in states and dtensors.is_sharded(p):
            state = eight_bits.unpacked(states[key], rule).items()
            states[key] = {name: dtensors.like(p, x) if name in sharded else x for name, x in state}
    return states


def unpacked(state_dict: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    """The state dict with states in 8 bits in fp32, as they are checked and reordered. Raises ValueError."""
    states = state_dict["state"].items()
    return {**state_dict, "state": {key: eight_bits.unpacked(state, rule) for key, state in states}}


def tower_keys(towers: int) -> list[str]:
    """The keys in a state dict of the states of optimizers that learn coefficients."""
    return ["hyper_optimizer", *(f"hyper_optimizer.{i}" for i in range(1, towers))][:towers]


def unlabeled(names: Mapping[str, list[str]], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict without the names of each learner's coefficients, which 0.1.0 didn't write.

    Raises ValueError if they differ from `names`.
    """
    groups = []
    for group in state_dict["param_groups"]:
        saved = {key: x for key, x in group.items() if str(key).partition(".")[0] == LEARNED}
        for key, theirs in saved.items():
            if list(theirs) != names.get(key):
                raise ValueError(
                    f"state dict, parameter group, {key!r}: expected {names.get(key, 'nothing')}, got {theirs}; load "
                    "it into an optimizer of the same model, with the same rule and the same `learn`"
                )
        groups.append({key: x for key, x in group.items() if key not in saved})
    return {**state_dict, "param_groups": groups}


def without_idle_velocity(groups: list[Group], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict without the velocity that version 0.1.0 wrote needlessly beside an optimizer of coefficients."""
    key = "hyper_velocity"
    saved_groups = state_dict["param_groups"]
    if not any(LEARNED in group for group in saved_groups) and not any(key in group for group in groups):
        saved_groups = [{name: x for name, x in group.items() if name != key} for group in saved_groups]
    return {**state_dict, "param_groups": saved_groups}


def check(program: Program, groups: list[Group], state_dict: Mapping[str, Any], towers: int) -> None:
    """Refuses the state (ValueError) of another rule, `learn` or `scope`, or with other shapes.

    Slots of the rule that this program has switched off may be there: version 0.1.0 wrote them. `towers` says how many
    optimizers learn coefficients; their states must be there.
    """
    rule = program.rule
    for key in tower_keys(towers):
        if key not in state_dict:
            raise ValueError(
                f"state dict: expected the key {key!r}, got none; "
                "load it into an optimizer without HyperTorch, or save state_dict() whole"
            )
    _known(state_dict)
    coefficients = set(map(option_key, (*rule.coefficient_names(), "lr")))
    programs, layouts = [], list[Layout]()
    for ours, theirs in zip(groups, state_dict["param_groups"], strict=False):
        keys = [key for key in {**ours, **theirs} if key in coefficients or is_memory(key)]
        _same("parameter group", _shapes(ours, keys), _shapes(theirs, keys))
        group = {**ours, **theirs}
        common = min(len(ours["params"]), len(theirs["params"]))  # torch refuses other numbers, with its own message
        flags = hidden_matrices.flags(rule, group)[:common]
        _layouts(ours["params"], flags)
        programs += [_of_saved_group(program, group, layout) for layout in flags]
        layouts += flags
    for (p, state), specialized, layout in zip(_pairs(groups, state_dict), programs, layouts, strict=False):
        if state:
            _tensors(state)
            canvas = eager.canvas(dtensors.outline(p))
            expected = eager.new_state(replace(specialized, state_dtype=None), canvas, layout)
            idle = set(rule.slot_names()) - set(specialized.form.slot_names())
            saved = {"anchor" if name == "trace" and "anchor" not in state else name: x for name, x in state.items()}
            _same("state of a parameter", _shapes(expected, expected), _shapes(saved, saved.keys() - idle))


def _known(state_dict: Mapping[str, Any]) -> None:
    """Refuses numbers of parameters that JSON has turned into text, which would match no parameter."""
    params = {key for group in state_dict["param_groups"] for key in group["params"]}
    for key in state_dict["state"]:
        if isinstance(key, str) and key not in params and key.isdecimal():
            raise ValueError(
                f"state dict, 'state': expected the numbers of parameters as keys, got the text {key!r}; "
                "turn the keys back into int"
            )


def _of_saved_group(program: Program, group: Group, layout: Layout) -> Program:
    """The program of parameters of a saved group, whose constants may be tensors."""
    fixed = {q: float(group[q]) for q in program.coefficients if q not in program.learned}
    return replace(program, fixed=program.fixed_in({**program.rule.hyper_parameters, **group, **fixed}, layout))


def _layouts(params: Iterable[Tensor], saved: Iterable[Layout]) -> None:
    for p, layout in zip(params, saved, strict=False):
        if layout and settled(p, layout) != layout:
            raise ValueError(
                f"state dict, {hidden_matrices.FLAGS!r}: got {layout!r} for a parameter of shape {tuple(p.shape)}, "
                "which has no such matrices; load it into an optimizer of the same model"
            )


def restored(groups: list[Group], state_dict: Mapping[str, Any], program: Program) -> dict[Tensor, dict[str, Tensor]]:
    """The saved state of each parameter, copied to the parameter's device in the dtype that it was saved in.

    `torch.optim.Optimizer.load_state_dict` rounds state to its parameter's dtype: with bf16 parameters a coefficient of
    .9995 would come back as 1. Slots that are switched off are left out. Slots in fp16, which can't hold squares of
    gradients, arrive in fp32. An optimizer in 8 bits packs what it would pack itself; the others have got fp32.
    """
    rule = program.rule
    places = [(group, j) for group in groups for j in range(len(group["params"]))]
    programs = [program.of_parameter(*place) for place in places]
    idle = [set(rule.slot_names()) - set(x.form.slot_names()) for x in programs]
    sharded = eager.per_element_or_row(rule)

    def copied(p: Tensor, name: str, x: Tensor) -> Tensor:
        shard = dtensors.taken_from(x, p) if name in sharded else x
        narrow = shard.dtype is torch.float16 and name in rule.slot_names()
        return shard.detach().clone().to(p.device, torch.float32 if narrow else shard.dtype)

    return {
        p: fitted({name: copied(p, name, x) for name, x in state.items() if name not in unused}, p, of_p)
        for (p, state), unused, of_p in zip(_pairs(groups, state_dict), idle, programs, strict=False)
        if state
    }


def fitted(state: dict[str, Tensor], p: Tensor, program: Program) -> dict[str, Tensor]:
    """The state of `p` in this program's form: in 8 bits or not, with the trace of lr or its anchor."""
    theta = eager.canvas(dtensors.local(p.detach()))
    other = "trace" if program.trace == "anchor" else "anchor"
    if other in state:
        x = state.pop(other)
        state[program.trace] = theta.to(x.dtype) - x
    return eight_bits.packed(state, program.packable, program.form) if program.packs(theta) else state


def _pairs(groups: list[Group], state_dict: Mapping[str, Any]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for p, key in _keys(groups, state_dict):
        yield p, state_dict["state"].get(key) or {}


def _keys(groups: list[Group], state_dict: Mapping[str, Any]) -> Iterator[tuple[Tensor, Any]]:
    """Each parameter with its key. A state dict numbers parameters in the order of the groups."""
    ours = chain.from_iterable(group["params"] for group in groups)
    keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    yield from zip(ours, keys, strict=False)


def _shapes(tensors: Mapping[str, Any], keys: Iterable[str]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(getattr(tensors[key], "shape", ())) for key in keys if key in tensors}


def _tensors(state: Mapping[str, Any]) -> None:
    for key, x in state.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"state dict, state of a parameter, {key!r}: expected a tensor, got {x!r}; save it anew")


def _same(where: str, ours: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]]) -> None:
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            expected, got = _described(ours.get(key)), _described(theirs.get(key))
            raise ValueError(
                f"state dict, {where}, {key!r}: expected {expected}, got {got}; "
                "load it into an optimizer of the same model, with the same rule and the same `learn`"
            )


def _described(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"a tensor of shape {shape}"
