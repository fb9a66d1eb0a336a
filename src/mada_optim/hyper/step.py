"""One hyper-step of all scopes: which of them move, and what is kept of it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mada_optim.hyper.bank import Bank


def hyper_step(bank: Bank, h: Tensor, counts: Tensor, lrs: Callable[[], Sequence[Tensor]]) -> None:
    """Moves the coefficients of each scope that the step counts for and whose hypergradients are finite.

    Args:
        bank: The coefficients, their learner and its memory.
        h: Hypergradients, (rows, names).
        counts: Whether the step counts, (rows,).
        lrs: Gives the scheduled learning rate of each group, 0-d.
    """
    q = bank.coefficients()
    finite = torch.isfinite(h).all(-1)
    info = bank.info(counts & finite, lambda: bank.by_row(lrs()))
    new, memory = bank.learner.step(q, h, bank.memory(), info)
    moves = info.moves.unsqueeze(-1) & ~new.isnan()
    new = torch.where(moves, torch.clamp(new, info.low, info.high), q)
    bank.store(new, memory, h, info, counts)
