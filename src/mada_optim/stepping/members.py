"""Follows parameters that a user removes from groups, replaces or reorders by hand, as torch's optimizers allow.

Lists in a group with an entry for each parameter must follow the parameters.
"""

from collections.abc import Callable, Mapping
from itertools import chain, repeat
from operator import is_
from typing import Any

from torch import Tensor

from mada_optim.matrices.hidden_matrices import FLAGS
from mada_optim.sharding import dtensors

Group = dict[str, Any]


class Members:
    """The groups of an optimizer and their parameters, as they were when it last looked.

    `owner` is the optimizer's name, for messages. `scope` is the finest scope of learned coefficients, or None.
    `is_summed` says whether hypergradients are summed over processes that have a part of the parameters each.
    """

    def __init__(self, owner: str, scope: str | None, is_summed: bool) -> None:
        self._owner, self._scope, self._is_summed = owner, scope, is_summed
        self._groups: list[Group] = []
        self._params: list[list[Tensor]] = []

    def take(self, groups: list[Group]) -> None:
        self._groups, self._params = list(groups), [list(group["params"]) for group in groups]

    def are_as_they_were(self, groups: list[Group]) -> bool:
        """Whether each group has the same parameters, in the same order."""
        ids = [list(map(id, group["params"])) for group in groups]
        return ids == [list(map(id, params)) for params in self._params]

    def follow(self, groups: list[Group], decide: Callable[[list[Group]], list[list[Any]]]) -> None:
        """Reorders the lists in groups with an entry per parameter; `decide` finds the hidden matrices.

        A parameter in the place of a removed one takes over its entry. Raises RuntimeError if learned coefficients have
        no place for the change, or parameters were flattened, so that the step would be another one.
        """
        self._require_matrices(groups)
        self._require_possible(groups)
        for i, group in enumerate(groups):
            if "param_names" in group:
                places = [f"{i}.{j}" for j in range(len(group["params"]))]
                group["param_names"] = _followed(group, "param_names", self._known(group), places)
        flagged = any(FLAGS in group for group in groups)
        for group, fresh in zip(groups, decide(groups), strict=True) if flagged else ():
            group[FLAGS] = _followed(group, FLAGS, self._known(group), fresh)
        self.take(groups)

    def _known(self, group: Group) -> list[Tensor]:
        """The parameters that a group had."""
        return next((params for old, params in zip(self._groups, self._params, strict=True) if old is group), [])

    def _require_matrices(self, groups: list[Group]) -> None:
        """Refuses flat slices in the place of matrices, unless they are stepped like the matrices."""
        before, world = set(map(id, chain.from_iterable(self._params))), dtensors.processes()
        for group in groups:
            pairs = zip(group.get(FLAGS, repeat(False)), self._known(group), group["params"], strict=False)
            for is_hidden, old, new in pairs:
                if not new.ndim < 2 <= old.ndim or id(new) in before:
                    continue
                shapes = f"expected a parameter of shape {tuple(old.shape)}, got the shape {tuple(new.shape)}"
                where = f"{self._owner}: {shapes}"
                if is_hidden:
                    raise RuntimeError(
                        f"{where}, as by DeepSpeed ZeRO, in which no matrix can be seen; use ZeRO stage 0 or FSDP2's "
                        "`fully_shard`, or an optimizer that treats all parameters alike, such as AutoAdam"
                    )
                if self._scope is not None and not self._is_summed and world > 1:
                    raise RuntimeError(
                        f"{where}, as by DeepSpeed ZeRO, on {world} processes, each of which would learn from its "
                        "slice alone; pass reduce_group=torch.distributed.group.WORLD, use FSDP2's `fully_shard`, "
                        "or learn nothing (learn=())"
                    )

    def _require_possible(self, groups: list[Group]) -> None:
        moved = len(groups) != len(self._groups) or not all(map(is_, groups, self._groups))
        if (moved and self._scope is not None) or (self._scope == "tensor" and not self._are_replaced(groups)):
            raise RuntimeError(
                f"param_groups were changed by hand: expected the {len(self._groups)} groups that were added, with "
                f"their parameters in their order, got {len(groups)} or others, which have no learned coefficients of "
                "their own; use add_param_group, or make the optimizer anew. A wrapper that steps one group at a time, "
                "such as DeepSpeed ZeRO, needs all parameters in one group, or an optimizer that learns nothing"
            )

    def _are_replaced(self, groups: list[Group]) -> bool:
        """Whether each parameter is in its place, or another one is in the place of a removed one."""
        before = set(map(id, chain.from_iterable(self._params)))
        return all(
            len(known) == len(group["params"])
            and all(new is old or id(new) not in before for old, new in zip(known, group["params"], strict=True))
            for known, group in zip(self._params, groups, strict=True)
        )


def _followed(group: Mapping[str, Any], key: str, known: list[Tensor], fresh: list[Any]) -> list[Any]:
    """The entries of `group[key]`, which are in the order of `known`, in the order of the group's parameters now."""
    held = dict(zip(map(id, known), group.get(key, ()), strict=False))
    now = set(map(id, group["params"]))
    gone = {j: held[id(p)] for j, p in enumerate(known) if id(p) in held and id(p) not in now}
    return [held.get(id(p), gone.get(j, fresh[j])) for j, p in enumerate(group["params"])]
