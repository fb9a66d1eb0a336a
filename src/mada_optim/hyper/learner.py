"""The hyper-step: how the learned coefficients move, given their hypergradients.

Matrices have one row per scope and one column per learned coefficient.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

HyperOptimizerFactory = Callable[[list[Tensor]], Optimizer]

#: On a bound, the past pushes outward with at most so many times the present hypergradient. It is what the published
#: momentum, .5, builds up out of equal hypergradients: a smaller number would change the published traces.
REBOUND = 2.0

#: How many times the variance that noise gives to a mean has to be exceeded by the mean's square before it counts.
NOISE = 2.0


@dataclass(frozen=True)
class Learner:
    """Clip, hyper-step and projection, all pure (MADA, section 3: SGD with momentum on the coefficients).

    Attributes:
        lr: Hyper learning rates, >= 0, one per learned coefficient.
        momentum: Weights of the past in the velocity, in [0, 1); None for 0, in fewer operations.
        low: Lower ends of the intervals.
        high: Upper ends of the intervals.
        limit: Each hypergradient is clipped to [-limit, limit].
        start: Number of applied steps before the first hyper-step.
        stop: Number of applied steps after which there is none; math.inf for no end.
        memory: Decays of the mean squares that hypergradients are divided by the roots of, in [0, 1); 0 for none.
        averaging: Decays of the means that are weighed against their noise, in [0, 1); 0 for none.
        reach: How far coefficients go at most in one hyper-step, > 0; math.inf for any distance.
        freeze: Share of the largest lr so far below which there is no hyper-step, in [0, 1].
        fall: Steps after which a learned lr may be half its floor, > 0; math.inf where it may fall at once.
        rise: What each step takes off the evidence for an lr above its start, in [0, 1); 0 where none is asked for.
    """

    lr: Tensor
    momentum: Tensor | None
    low: Tensor
    high: Tensor
    limit: float
    start: int
    stop: float = math.inf
    memory: Tensor | None = None
    averaging: Tensor | None = None
    reach: Tensor | None = None
    freeze: float = 0.0
    fall: float = math.inf
    rise: float = 0.0

    def on(self, device: torch.device, dtype: torch.dtype) -> "Learner":
        """The same, with its vectors there."""
        there: dict[str, Any] = {q: x.to(device, dtype) for q, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **there)

    def may_step(self, h: Tensor, applied_steps: Tensor) -> Tensor:
        """By scope: are there enough steps behind, one at least, not too many, and is every hypergradient finite?"""
        due = (applied_steps >= max(self.start, 1)) & (applied_steps < self.stop)
        return due & torch.isfinite(h).all(-1)

    def awake(self, lr: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """By scope: is the scheduled lr not far below the largest so far? And that, with this one.

        A schedule that takes lr down is right about the end of a run, of which a hypergradient knows nothing: it would
        take a learned lr up again.
        """
        largest = torch.maximum(lr, largest)
        return lr >= self.freeze * largest, largest

    def normalize(self, h: Tensor, square: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`h` over its root mean square where it has a memory, and the mean square and its weight with `h` in them.

        The size of a hypergradient depends on the loss, on the number of weights and on lr, and says little of how far
        to go; its sign, and how steady that is, do. Means of ones correct the bias, as Adam's do.
        """
        assert self.memory is not None
        largest = torch.finfo(h.dtype).max
        square = torch.clamp(self.memory * square + (1 - self.memory) * h**2, max=largest)
        weight = self.memory * weight + (1 - self.memory)
        size = (square / weight).sqrt()
        scaled = torch.where(size > 0, h / size, 0.0)
        return torch.where(self.memory > 0, scaled, h), square, weight

    def clip(self, h: Tensor) -> Tensor:
        """Each hypergradient on its own, to [-limit, limit]."""
        return torch.clamp(h, -self.limit, self.limit)

    def weigh(self, h: Tensor, mean: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the running mean of `h` what noise alone wouldn't have made, and the sums that it is taken from.

        Hypergradients of size 1 whose signs are drawn have a mean whose square is about `noise / weight^2`: so much is
        no reason to move. Of a mean r,

            r max(0, 1 - NOISE noise / (weight r)^2)

        is left, the positive part of James and Stein's estimator (1961). Without it a coefficient wanders by as much as
        its hyper learning rate lets it, wherever nothing is to be learned.
        """
        assert self.averaging is not None
        past, new = self.averaging, 1 - self.averaging
        mean, weight, noise = past * mean + new * h, past * weight + new, past**2 * noise + new**2
        square = mean**2
        kept = torch.clamp(1 - NOISE * noise / torch.where(square > 0, square, 1.0), min=0.0)
        return torch.where(past > 0, kept * mean / weight, h), mean, weight, noise

    def forget(self, moved: Tensor, mean: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sums that `weigh` takes a mean from, after the coefficients have moved.

        Hypergradients were taken where the coefficients were, and say the less of where they are, the farther that is:
        each counts by exp(-distance / reach). So a coefficient that has gone too far gathers new evidence there before
        it goes on, instead of being carried by the old.
        """
        assert self.reach is not None
        kept = torch.exp(-moved.abs() / self.reach)
        return kept * mean, kept * weight, kept**2 * noise

    def lowest(self, q: Tensor, steps: Tensor, floor: Tensor | None) -> Tensor:
        """How low the coefficients `q` may go after so many applied `steps` (rows,), by scope or the same for all.

        With a `floor`, ln lr_0 (rows,), the last of them, a learned lr, may be at

            lr_0 / (1 + t / fall)

        after step t, and no lower; one that is below falls no farther. A hypergradient looks back, on t steps at most:
        it sees at once how weights with little gradient stray by their noise, as attention's do early on, and what they
        find by that only when it is found. So that lr was too large is believed the more, the more steps say so.
        Falling as 1 / t, its steps still add up to any distance (Robbins and Monro 1951), as under no faster power.
        """
        if floor is None:
            return self.low
        low = self.low.expand_as(q)
        of_lr = torch.minimum(q[:, -1], floor - torch.log1p(steps / self.fall))
        return torch.cat([low[:, :-1], torch.maximum(low[:, -1], of_lr).unsqueeze(-1)], dim=-1)

    def testify(self, h: Tensor, ceiling: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """How high a learned lr may go, as ln of it (rows,), and the evidence for more (rows,), after one more step.

        A step adds -h, clamped to [-1, 1], less `rise`; h (rows, names) is over its root mean square, lr last. A
        positive sum is spent at once: the ceiling rises by the sum times reach / (1 - rise). So it rises by lr's reach
        per step where all steps agree. A negative sum stays until later steps make it good, however old it is.

        The sum forgets nothing because the first steps tell most (docs/lab-notebook.md). On trained weights < g, S > on
        batches that come for the first time is positive, as on validation data: a smaller lr is better. When batches
        come again it turns negative, as g then points back along steps that these very batches made: a larger lr would
        only fit them better. With fresh weights and an lr that is too small it is negative from the start.
        """
        evidence = evidence - torch.clamp(h[:, -1], -1.0, 1.0) - self.rise
        spent = torch.clamp(evidence, min=0.0)
        scale = math.inf if self.reach is None else self.reach[-1] / (1 - self.rise)
        return ceiling + torch.where(spent > 0, scale * spent, 0.0), evidence - spent

    def highest(self, q: Tensor, ceiling: Tensor | None) -> Tensor:
        """How high the coefficients `q` may go, by scope or the same for all.

        With a `ceiling` (rows,), the last of them, a learned lr, goes no higher; one that is above rises no farther.
        """
        if ceiling is None:
            return self.high
        high = self.high.expand_as(q)
        of_lr = torch.minimum(high[:, -1], torch.maximum(q[:, -1], ceiling))
        return torch.cat([high[:, :-1], of_lr.unsqueeze(-1)], dim=-1)

    def step(self, q: Tensor, h: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients and the velocity after one step of SGD with momentum along `h`.

        A coefficient that is pushed against its bound doesn't wind up: once the hypergradients have turned, and don't
        shrink faster than the momentum forgets, it leaves the bound at the second step, without momentum at the first.
        A finite `h` never makes the velocity infinite or NaN, whose later steps would be NaN too.
        """
        if self.momentum is None:
            return q - self.lr * h, h
        past, most, largest = self.momentum * velocity, REBOUND * h.abs(), torch.finfo(h.dtype).max
        outward = ((q <= self.low) & (past > 0)) | ((q >= self.high) & (past < 0))
        past = torch.where(outward, torch.clamp(past, -most, most), past)
        velocity = torch.clamp(past + h, -largest, largest)
        return q - self.lr * velocity, velocity

    def within_reach(self, new: Tensor, q: Tensor) -> Tensor:
        """The nearest point to `new` that one hyper-step goes to from `q`."""
        return new if self.reach is None else torch.clamp(new, q - self.reach, q + self.reach)

    def project(self, q: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        """The nearest point inside the intervals, whose ends are `low` and `high` where these are given."""
        return torch.clamp(q, self.low if low is None else low, self.high if high is None else high)


class ExternalLearner:
    """Any `torch.optim.Optimizer` in the place of `Learner.step`; one that is a HyperOptimizer makes a tower.

    Args:
        factory: Makes the optimizer from the list of coefficient tensors (1-d leaves, one entry per scope).
        coefficients: The tensors it is given, moved in place by `step`.
    """

    def __init__(self, factory: HyperOptimizerFactory, coefficients: list[Tensor]) -> None:
        self.coefficients = coefficients
        self.optimizer = factory(coefficients)

    def step(self, h: Tensor, where: Tensor) -> Tensor:
        """Moves the coefficients along `h`; of scopes where `where` (rows,) is false, the optimizer's state stays.

        State that the optimizer makes at a first step which doesn't count is left at zero.

        Returns:
            The coefficients it proposes, (rows, names); where it proposes NaN, those there were.
        """
        start = torch.stack(self.coefficients, dim=-1)
        before = {key: x.clone() for key, x in moving_tensors(self.optimizer)}
        along = torch.where(where.unsqueeze(-1), h, 0.0)
        for x, derivative in zip(self.coefficients, along.unbind(-1), strict=True):
            x.grad = derivative.contiguous()
        self.optimizer.step()
        self.optimizer.zero_grad()
        proposed = torch.stack(self.coefficients, dim=-1)
        proposed = torch.where(proposed.isnan(), start, proposed)
        for key, x in moving_tensors(self.optimizer):
            counts = where.to(x.device) if x.shape == where.shape else where.any().to(x.device)
            x.copy_(torch.where(counts, x, before.get(key, torch.zeros_like(x))))
        return proposed


def moving_tensors(optimizer: Optimizer | None, level: int = 0) -> Iterator[tuple[tuple[int, int, str], Tensor]]:
    """What an optimizer's step changes beside its parameters, with a key: its state, its groups, and so up a tower."""
    if optimizer is None:
        return
    holders = [
        *optimizer.param_groups,
        *(optimizer.state.get(p, {}) for g in optimizer.param_groups for p in g["params"]),
    ]
    for i, holder in enumerate(holders):
        yield from (((level, i, name), x) for name, x in holder.items() if isinstance(x, Tensor))
    yield from moving_tensors(getattr(optimizer, "hyper_optimizer", None), level + 1)
