"""One hyper-step of all scopes: which of them move, and what is kept of it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mada_optim.hyper.bank import Bank
from mada_optim.hyper.learner import Learner, Memory, StepInfo


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
    bank.store(*moved(bank.learner, q, h, bank.memory(), info), h, info, counts)


def moved(learner: Learner, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
    """The coefficients after a step of the learner, on their intervals, and its memory."""
    new, memory = learner.step(q, h, memory, info)
    moves = info.moves.unsqueeze(-1) & ~new.isnan()
    return torch.where(moves, torch.clamp(new, info.low, info.high), q), memory
