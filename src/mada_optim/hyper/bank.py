"""Where the learned coefficients live: one row per scope, one column per coefficient.

Parameter groups hold views of the rows that are theirs: with `scope="global"` all groups the same 0-d tensors, with
"group" each its own, with "tensor" 1-d tensors with one entry per parameter of the group. A hyper-step writes the bank,
and with it every group. Beside the coefficients it keeps what the learner remembers of each scope.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mada_optim.hyper.learner import Learner
from mada_optim.placement import Placement
from mada_optim.spec import option_key

SCOPES = ("global", "group", "tensor")
#: What the learner remembers, by its key in a group: the last hypergradients and the velocity, one number per learned
#: coefficient, and the number of steps that counted.
MEMORY = ("hypergradient", "hyper_velocity", "applied_steps")
#: What some learners remember too: mean squares of the hypergradients, the same means of ones, and the largest lr.
MEAN_SQUARES = ("hyper_square", "hyper_weight")
LARGEST_LR = "largest_lr"
#: And what a mean is weighed by: the mean of the hypergradients, the same of ones, and the share of a variance in it.
EVIDENCE = ("hyper_mean", "hyper_mean_weight", "hyper_mean_noise")
#: From where a learned lr falls slowly, as the logarithm of its factor. It is what a run began with, so it is saved.
LR_FLOOR = "log_lr_floor"
#: How high a learned lr may rise, as that logarithm, and what is lacking before that is more.
LR_CEILING, FOR_RISE = "log_lr_ceiling", "hyper_evidence"
ALL_MEMORY = (*MEMORY, *MEAN_SQUARES, *EVIDENCE, LARGEST_LR, LR_FLOOR, LR_CEILING, FOR_RISE)


class Bank:
    """The learned coefficients of an optimizer, and the memory of their learner.

    Args:
        names: The learned coefficients.
        scope: Over what a coefficient is one: "global", "group" or "tensor".
        learner: Of the hyper-step.
    """

    def __init__(self, names: tuple[str, ...], scope: str, learner: Learner) -> None:
        self.names, self.scope = names, scope
        means, evidence = MEAN_SQUARES * (learner.memory is not None), EVIDENCE * (learner.averaging is not None)
        self._vectors = (*MEMORY[:2], *means, *evidence)
        self._numbers = (MEMORY[2], *(LARGEST_LR,) * (learner.freeze > 0), *(FOR_RISE,) * (learner.rise > 0))
        self.columns: dict[str, Tensor] = {}  # by key in a group: coefficients (rows,), memory (rows,) or (rows, names)
        self._places: list[int | slice] = []
        self._views: list[dict[str, Tensor]] = []

    @property
    def rows(self) -> int:
        """Number of scopes."""
        return next((len(x) for x in self.columns.values()), 0)

    def coefficients(self) -> Tensor:
        """The learned coefficients, (rows, names)."""
        return torch.stack([self.columns[option_key(q)] for q in self.names], dim=-1)

    def set_coefficients(self, q: Tensor) -> None:
        """Overwrites the learned coefficients, (rows, names), in place."""
        torch._foreach_copy_([self.columns[option_key(name)] for name in self.names], list(q.unbind(-1)))

    def keep(self, key: str, new: Tensor, where: Tensor) -> None:
        """Overwrites a column by `new` in place, in the rows where `where` (rows,) holds."""
        column = self.columns[key]
        column.copy_(torch.where(where if column.ndim == 1 else where.unsqueeze(-1), new, column))

    def rows_of(self, group: int, parameters: int) -> Sequence[int]:
        """The row of each of a group's parameters; 0 where nothing is learned."""
        place = self._places[group] if self._places else 0
        return range(place.start, place.stop) if isinstance(place, slice) else [place] * parameters

    def by_row(self, of_groups: Sequence[Tensor]) -> Tensor:
        """A number per row (rows,), from one per group, 0-d; of all groups together, that of the first."""
        if self.scope == "global":
            return of_groups[0].reshape(1)
        spread = [
            x.expand(p.stop - p.start if isinstance(p, slice) else 1)
            for x, p in zip(of_groups, self._places, strict=True)
        ]
        return torch.cat(spread)

    def add_group(self, start: Mapping[str, Tensor], parameters: int) -> None:
        """Makes room for a new group whose learned coefficients start at `start`, 0-d tensors by key in a group.

        What else is in it starts so too; all other memory at 0.
        """
        shared = self.scope == "global" and self.rows > 0
        new = 0 if shared else parameters if self.scope == "tensor" else 1
        rows, place = self.rows, 0 if self.scope == "global" else self.rows
        self._places.append(slice(rows, rows + new) if self.scope == "tensor" else place)
        like = next(iter(start.values()))
        fresh = {key: x.expand(new) for key, x in start.items()}
        fresh |= {key: like.new_zeros(new, len(self.names)) for key in self._vectors}
        fresh |= {key: like.new_zeros(new) for key in self._numbers}
        self.columns = {key: torch.cat([self.columns.get(key, x[:0]), x]) for key, x in fresh.items()}

    def attach(self, groups: list[dict[str, Any]]) -> None:
        """Gives each group its views."""
        self._views = [{key: x[place] for key, x in self.columns.items()} for place in self._places]
        if self.scope == "global":
            self._views = self._views[:1] * len(self._places)  # one tensor is one object in every group
        for group, views in zip(groups, self._views, strict=bool(self.names)):
            group.update(views)

    def adopt(self, groups: list[dict[str, Any]]) -> None:
        """Takes over what was put into a group in place of a view, by a user, a scheduler or a state dict.

        A view that lies elsewhere since, as after `x.data = y`, is none of the bank's any more, and is taken over too.
        """
        strange = False
        for group, views, place in zip(groups, self._views, self._places, strict=bool(self.names)):
            for key, view in views.items():
                x, own = group[key], self.columns[key][place]
                if x is not view or not Placement([own]).holds([x]):
                    strange = True
                    own.copy_(x) if isinstance(x, Tensor) else own.fill_(x)
        if strange:
            self.attach(groups)
