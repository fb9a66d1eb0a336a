"""Reorders a saved state by the names of an optimizer's parameters, if both sides have names.

torch.optim loads by position: parameters in another order, or in other groups, would get the state of other parameters
with the same shape.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor

#: The names that wrappers (DDP, `torch.compile`, FSDP, checkpoints) give to the module inside.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

Names = list[list[str]]


class Order(NamedTuple):
    """Where the state of each parameter is in a state dict."""

    groups: list[int]  # for each group, its place among the saved ones
    within: list[list[int]]  # for each group, the places of its parameters in that saved group
    rows: list[int]  # for each parameter of all groups, its place among all that were saved


def order(groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]) -> Order | None:
    """Matches parameters by name, without the prefixes of wrappers such as DDP and `torch.compile`.

    None if a side lacks names or has one twice, and for states that `torch.distributed.checkpoint` has ordered under
    other names. Raises ValueError if a parameter is missing on one side, or its group has other parameters than before.
    """
    saved = state_dict["param_groups"]
    ours, theirs = _names(groups), _names(saved)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    ours, theirs = _unwrapped(ours, theirs)
    if _ordered_before(saved) and set(chain(*ours)) != set(chain(*theirs)):
        return None
    _require_same(ours, theirs)
    return _order(ours, theirs)


def arranged(
    groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any], places: Order, per_parameter: Iterable[str]
) -> dict[str, Any]:
    """The state dict in this order; groups have a value for each parameter under the keys `per_parameter`."""
    new = []
    for group, source, within in zip(groups, places.groups, places.within, strict=True):
        saved = dict(state_dict["param_groups"][source])
        keys = [key for key in per_parameter if key in saved]
        keys += [] if _ordered_before([saved]) else ["params"]
        saved |= {key: _taken(saved[key], within) for key in keys}
        if "param_names" in saved:
            saved["param_names"] = list(group["param_names"])
        new.append(saved)
    return {**state_dict, "param_groups": new}


def rearranged_rows(
    state_dict: Mapping[str, Any], rows: Sequence[int], per_row: Collection[str] | None
) -> dict[str, Any]:
    """The state of an optimizer of coefficients, with reordered rows in the tensors `per_row`; None: in all of them."""

    def taken(name: str, x: Any) -> Any:
        is_ours = isinstance(x, Tensor) and x.shape[:1] == (len(rows),) and (per_row is None or name in per_row)
        return _taken(x, rows) if is_ours else x

    states = {key: {name: taken(name, x) for name, x in state.items()} for key, state in state_dict["state"].items()}
    return {**state_dict, "state": states}


def _names(groups: Sequence[Mapping[str, Any]]) -> Names | None:
    """The names in each group; None unless every parameter has one of its own."""
    names = [list(group.get("param_names", [])) for group in groups]
    if any(len(of_group) != len(group["params"]) for of_group, group in zip(names, groups, strict=True)):
        return None
    return names if _unique(names) else None


def _unique(names: Names) -> bool:
    flat = list(chain(*names))
    return len(set(flat)) == len(flat)


def _unwrapped(ours: Names, theirs: Names) -> tuple[Names, Names]:
    """Both sides without the names of wrappers, if the names differ, and are unique without them."""
    if set(chain(*ours)) == set(chain(*theirs)):
        return ours, theirs
    plain = [[[_plain(name) for name in of_group] for of_group in side] for side in (ours, theirs)]
    return (plain[0], plain[1]) if all(map(_unique, plain)) else (ours, theirs)


def _plain(name: str) -> str:
    parts = name.split(".")
    return ".".join([*(x for x in parts[:-1] if x not in WRAPPERS), parts[-1]])


def _ordered_before(saved: Iterable[Mapping[str, Any]]) -> bool:
    """Whether parameters have full names, as after `set_optimizer_state_dict`, which has put them into our order."""
    keys = [key for group in saved for key in group["params"]]
    return bool(keys) and all(isinstance(key, str) for key in keys)


def _require_same(ours: Names, theirs: Names) -> None:
    remedy = (
        "load it into an optimizer of the same parameters, or remove 'param_names' from the groups of the state to "
        "load by position"
    )
    here, saved = (dict.fromkeys(chain(*names)) for names in (ours, theirs))
    for name in here:
        if name not in saved:
            raise ValueError(f"state dict: expected a parameter {name!r}, which this optimizer has, got none; {remedy}")
    for name in saved:
        if name not in here:
            raise ValueError(f"state dict: expected only parameters of this optimizer, got {name!r}; {remedy}")


def _order(ours: Names, theirs: Names) -> Order:
    places = {name: (j, k) for j, of_group in enumerate(theirs) for k, name in enumerate(of_group)}
    empty = (j for j, of_group in enumerate(theirs) if not of_group)
    groups = [places[of_group[0]][0] if of_group else next(empty, -1) for of_group in ours]
    for i, (of_group, source) in enumerate(zip(ours, groups, strict=True)):
        strange = [name for name in of_group if places[name][0] != source]
        strange += [name for name in theirs[source] if name not in set(of_group)]
        if source < 0 or strange:
            raise ValueError(
                f"state dict, parameter group {i}: expected the parameters of one saved group, got {strange[:1]} from "
                "another; make the same groups as before, because each has its own options"
            )
    starts = [sum(map(len, theirs[:j])) for j in range(len(theirs))]
    within = [[places[name][1] for name in of_group] for of_group in ours]
    rows = [starts[j] + k for j, of_group in zip(groups, within, strict=True) for k in of_group]
    return Order(groups, within, rows)


def _taken(x: Any, places: Sequence[int]) -> Any:
    if isinstance(x, Tensor):
        return x[list(places)] if x.ndim else x
    return [x[k] for k in places]
