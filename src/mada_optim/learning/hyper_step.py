"""One hyper-step of a bank."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mada_optim.learning.bank import Bank
from mada_optim.learning.learner import Memory, StepInfo


def hyper_step(bank: Bank, h: Tensor, counts: Tensor, lrs: Callable[[], Sequence[Tensor]]) -> None:
    """Moves the coefficients of each scope that the step counts for and whose hypergradients are finite.

    The arguments are as of `Banks.step`. Raises ValueError if the learner's first step returns other names or shapes
    than it was given.
    """
    q, before = bank.coefficients(), bank.memory()
    finite = (h - h).sum(-1) == 0  # in fewer operations than `isfinite`
    info = bank.info(counts & finite, lambda: bank.by_row(lrs()))
    new, memory = bank.learner.step(q, h, before, info)
    if not bank.has_stepped:
        _require_alike(type(bank.learner).__name__, {"coefficients": q, **before}, {"coefficients": new, **memory})
        bank.has_stepped = True
    bank.store(projected(new, q, info, bank.learner.may_give_nan), memory, h, info, counts)


def projected(new: Tensor, q: Tensor, info: StepInfo, may_be_nan: bool) -> Tensor:
    """A learner's `new` coefficients, projected on the intervals; `q` where the row doesn't move, or `new` is NaN."""
    moves = info.moves.unsqueeze(-1)
    return torch.where(moves & ~new.isnan() if may_be_nan else moves, torch.clamp(new, info.low, info.high), q)


def _require_alike(owner: str, given: Memory, got: Memory) -> None:
    for name in {**given, **got}:
        expected, form = _form(given.get(name)), _form(got.get(name))
        if expected != form:
            raise ValueError(
                f"step of {owner}, {name!r}: expected {expected}, got {form}; "
                "return coefficients and memory under the names and in the shapes in which they are given"
            )


def _form(x: object) -> object:
    return tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
