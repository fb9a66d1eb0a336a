"""One hyper-step of all scopes: which of them move, along what, and what is remembered of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mada_optim.hyper.bank import EVIDENCE, FOR_RISE, LARGEST_LR, LR_CEILING, LR_FLOOR, MEAN_SQUARES, Bank
from mada_optim.hyper.learner import ExternalLearner, Learner


def hyper_step(
    bank: Bank, learner: Learner, external: ExternalLearner | None, lrs: Sequence[Tensor], h: Tensor, counts: Tensor
) -> None:
    """Moves the learned coefficients of each scope that the step counts for and whose hypergradients are finite.

    Args:
        bank: The coefficients, and the learner's memory.
        learner: Of the hyper-step.
        external: What takes the place of the learner's own step, if anything does.
        lrs: The scheduled learning rate of each group, 0-d; unused unless the learner freezes.
        h: Hypergradients, (rows, names).
        counts: Whether the step counts, (rows,).
    """
    q, memory = bank.coefficients(), bank.columns
    moves = counts & learner.may_step(h, memory["applied_steps"])
    if learner.freeze:
        moves = moves & _awake(bank, learner, lrs, counts)
    along = learner.clip(h if learner.memory is None else _normalized(bank, learner, h, moves))
    if learner.rise:
        _testified(bank, learner, along, moves)
    if learner.averaging is not None:
        along = _weighed(bank, learner, along, moves)
    if external is None:
        new, velocity = learner.step(q, along, memory["hyper_velocity"])
        bank.keep("hyper_velocity", velocity, moves)
    else:
        new = external.step(along, moves)
    low = learner.lowest(q, memory["applied_steps"], memory.get(LR_FLOOR))
    high = learner.highest(q, memory.get(LR_CEILING))
    new = torch.where(moves.unsqueeze(-1), learner.project(learner.within_reach(new, q), low, high), q)
    bank.set_coefficients(new)
    if learner.averaging is not None and learner.reach is not None:
        _forget(bank, learner, new - q, moves)
    bank.keep("hypergradient", h, counts)
    bank.keep("applied_steps", memory["applied_steps"] + 1, counts)


def _awake(bank: Bank, learner: Learner, lrs: Sequence[Tensor], counts: Tensor) -> Tensor:
    awake, largest = learner.awake(bank.by_row(lrs), bank.columns[LARGEST_LR])
    bank.keep(LARGEST_LR, largest, counts)
    return awake


def _normalized(bank: Bank, learner: Learner, h: Tensor, moves: Tensor) -> Tensor:
    along, *means = learner.normalize(h, *(bank.columns[key] for key in MEAN_SQUARES))
    for key, mean in zip(MEAN_SQUARES, means, strict=True):
        bank.keep(key, mean, moves)
    return along


def _testified(bank: Bank, learner: Learner, h: Tensor, moves: Tensor) -> None:
    keys = (LR_CEILING, FOR_RISE)
    for key, x in zip(keys, learner.testify(h, *(bank.columns[key] for key in keys)), strict=True):
        bank.keep(key, x, moves)


def _weighed(bank: Bank, learner: Learner, h: Tensor, moves: Tensor) -> Tensor:
    along, *sums = learner.weigh(h, *(bank.columns[key] for key in EVIDENCE))
    for key, x in zip(EVIDENCE, sums, strict=True):
        bank.keep(key, x, moves)
    return along


def _forget(bank: Bank, learner: Learner, moved: Tensor, moves: Tensor) -> None:
    sums = learner.forget(moved, *(bank.columns[key] for key in EVIDENCE))
    for key, x in zip(EVIDENCE, sums, strict=True):
        bank.keep(key, x, moves)
