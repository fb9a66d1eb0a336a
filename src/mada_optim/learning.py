"""The keywords `hyper_*` of an optimizer, checked, as the learner that they ask for."""

import math
from collections.abc import Container, Mapping

import torch
from torch import Tensor

from mada_optim.checks import NON_NEGATIVE, member, number
from mada_optim.hyper.learner import Learner
from mada_optim.spec import DECAY, LR, UNIT, Interval, Rule

PerCoefficient = float | Mapping[str, float] | None


def learner(
    rule: Rule,
    intervals: Mapping[str, Interval],
    *,
    hyper_lr: PerCoefficient,
    hyper_momentum: PerCoefficient,
    hyper_clip: float,
    hyper_start: int,
    hyper_stop: int | None,
    hyper_freeze: float,
    hyper_memory: PerCoefficient,
    hyper_averaging: PerCoefficient,
    hyper_reach: PerCoefficient,
    hyper_fall: float,
    hyper_rise: float,
) -> Learner:
    """The hyper-step of the learned coefficients, whose `intervals` are given in the rule's order, lr last.

    `HyperOptimizer` says what each keyword means.

    Raises:
        ValueError: A value is outside what is allowed, or a key is no learned coefficient; the message says what is.
    """
    none = dict.fromkeys(intervals, 0.0)
    usual = {q.name: q.hyper_lr for q in (*rule.coefficients, LR) if q.name in intervals}
    memories = _each("hyper_memory", hyper_memory, none, DECAY)
    means = _each("hyper_averaging", hyper_averaging, none, DECAY)
    _can_be_weighed(means, memories)
    reach = _each("hyper_reach", hyper_reach, none, NON_NEGATIVE)
    return Learner(
        lr=_vector(_each("hyper_lr", hyper_lr, usual, NON_NEGATIVE)),
        momentum=_unless_zero(_each("hyper_momentum", hyper_momentum, none, DECAY)),
        low=_vector({q: x.low for q, x in intervals.items()}),
        high=_vector({q: x.high for q, x in intervals.items()}),
        limit=_limit(hyper_clip),
        start=_count("hyper_start", hyper_start, "the paper's is 50"),
        stop=math.inf if hyper_stop is None else _count("hyper_stop", hyper_stop, "None is for no end"),
        memory=_unless_zero(memories),
        averaging=_unless_zero(means),
        reach=_vector({q: x or math.inf for q, x in reach.items()}) if any(reach.values()) else None,
        fall=_fall(hyper_fall, intervals),
        rise=_rise(hyper_rise, memories),
        freeze=number("hyper_freeze", hyper_freeze, UNIT, "0 is for never, 0.4 for the last two fifths of a cosine"),
    )


def _each(what: str, given: PerCoefficient, default: Mapping[str, float], allowed: Interval) -> dict[str, float]:
    """A number for each coefficient that has a default."""
    if not isinstance(given, Mapping):
        given = {} if given is None else dict.fromkeys(default, given)
    for name in given:
        member(f"{what} key", name, default, "only learned coefficients have one: name it in `learn` too")
    remedy = "pass one for all, or a dict by coefficient"
    return {q: number(f"{what} of {q}", x, allowed, remedy) for q, x in {**default, **given}.items()}


def _can_be_weighed(means: Mapping[str, float], memories: Mapping[str, float]) -> None:
    """Refuses a mean of hypergradients whose size is not known: there is no noise that it could be weighed against."""
    for q, decay in means.items():
        if decay and not memories[q]:
            remedy = "give it one, such as 0.999, or leave hyper_averaging out"
            raise ValueError(f"hyper_averaging of {q}={decay}: expected a hyper_memory of {q} > 0, got 0; {remedy}")


def _count(name: str, x: object, remedy: str) -> int:
    value = number(name, x, NON_NEGATIVE, remedy)
    if value != int(value):
        raise ValueError(f"{name}={x!r}: expected a whole number; {remedy}")
    return int(value)


def _fall(x: object, learned: Container[str]) -> float:
    value = number("hyper_fall", x, NON_NEGATIVE, "0 lets lr fall at once, 300 halves its floor in 300 steps")
    if value and LR.name not in learned:
        raise ValueError(f"hyper_fall={x!r}: expected 'lr' in learn, whose fall it slows; name it, or leave it at 0")
    return value or math.inf


def _rise(x: object, memories: Mapping[str, float]) -> float:
    value = number("hyper_rise", x, DECAY, "0 lets lr rise at once, 0.6 asks that most steps agree")
    if value and LR.name not in memories:
        raise ValueError(f"hyper_rise={x!r}: expected 'lr' in learn, whose rise it slows; name it, or leave it at 0")
    if value and not memories[LR.name]:
        remedy = "give it one, such as 0.999, or leave hyper_rise at 0"
        raise ValueError(f"hyper_rise={x!r}: expected a hyper_memory of lr > 0, got 0; {remedy}")
    return value


def _limit(x: object) -> float:
    remedy = "the paper's is 10, math.inf is no limit"
    return math.inf if x == math.inf else number("hyper_clip", x, NON_NEGATIVE, remedy)


def _vector(numbers: Mapping[str, float]) -> Tensor:
    return torch.tensor(list(numbers.values()), dtype=torch.float64, device="cpu")


def _unless_zero(numbers: Mapping[str, float]) -> Tensor | None:
    return _vector(numbers) if any(numbers.values()) else None
