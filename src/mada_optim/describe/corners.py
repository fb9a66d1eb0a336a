"""Corners of a rule: fixed values at which slots and terms fall away, or at which it equals another rule."""

from collections.abc import Callable, Iterator
from itertools import chain, product
from typing import Any

from torch import fx

from mada_optim.describe.graphs import Bound, Traced, kind, match, traced
from mada_optim.graph.specialize import CORNERS, SLOT, specialize
from mada_optim.rule import Rule

Fixed = dict[str, float]
Renamed = dict[str, str]


def single(rule: Rule) -> list[Fixed]:
    """Each corner of one coefficient inside its domain, and each hyper-parameter that is at a corner by default."""
    coefficients = [{q.name: x} for q in rule.coefficients for x in CORNERS if x in q.domain]
    return coefficients + [{name: float(x)} for name, x in rule.hyper_parameters.items() if x in CORNERS]


def slots_left(rule: Rule, fixed: Fixed) -> tuple[str, ...]:
    """Names of the slots that the rule still needs."""
    return specialize(rule, tuple(fixed.items())).slot_names()


def equal_rule(rule: Rule, other: Rule, form: Callable[[Fixed], Traced]) -> tuple[Fixed, Renamed] | None:
    """The values at which `rule` equals `other`, and its other names there; None if it never does.

    Two rules are equal if their graphs are equal up to the names of placeholders. Coefficients that both rules have
    stay free. The others of `rule` are tried at 0 and 1, its hyper-parameters only at a default of 0 or 1. `form`
    returns the graph of `rule` at a corner.
    """
    if len(other.slots) > len(rule.slots):
        return None
    theirs = traced(other)
    for fixed in _candidates(rule, other):
        if correspondence(theirs, form(fixed)) is not None:
            for name in list(fixed):
                fewer = {q: x for q, x in fixed.items() if q != name}
                fixed = fixed if correspondence(theirs, form(fewer)) is None else fewer
            return fixed, correspondence(theirs, form(fixed)) or {}
    return None


def _candidates(rule: Rule, other: Rule) -> Iterator[Fixed]:
    kept = {*other.coefficient_names(), *other.hyper_parameters}
    choices: dict[str, list[float]] = {}
    for name, x in chain.from_iterable(fixed.items() for fixed in single(rule)):
        if name not in kept:
            choices.setdefault(name, []).append(x)
    return (dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


def correspondence(theirs: Traced, ours: Traced) -> Renamed | None:
    """If the graphs are equal, our names by theirs of slots, coefficients and hyper-parameters whose names differ.

    The updates must be equal, and all slots that they depend on, with their values at t = 0.
    """
    bound = match(theirs.u, ours.u, {}, _alike)
    compared: set[fx.Node] = set()
    while bound is not None and (slots := [x for x in bound if kind(x) == "slot" and x not in compared]):
        compared.add(slots[0])
        bound = match(theirs.after[_name(slots[0])], ours.after[_name(bound[slots[0]])], bound, _alike)
    if bound is None or len(set(bound.values())) < len(bound) or not _same_start(theirs.rule, ours.rule, bound):
        return None
    return {_name(x): _name(node) for node, x in bound.items() if _name(x) != _name(node)}


def _alike(theirs: fx.Node, ours: Any) -> bool:
    return isinstance(ours, fx.Node) and ours.op == "placeholder" and kind(ours) == kind(theirs)


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix(SLOT)


def _same_start(theirs: Rule, ours: Rule, bound: Bound) -> bool:
    their_slots, our_slots = (
        {slot.name: (slot.init, slot.scalar, slot.per_row) for slot in x.slots} for x in (theirs, ours)
    )
    pairs = [(_name(node), _name(x)) for node, x in bound.items() if kind(node) == "slot"]
    return all(their_slots[a] == our_slots[b] for a, b in pairs)
