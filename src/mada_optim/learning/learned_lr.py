"""LearnedLR: the learning rate, learned from the way that the weights have gone."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mada_optim.learning.learner import Learner, Memory, StepInfo
from mada_optim.learning.options import NONE, Amount, Bounds, Decay, Limit, Scope, Share, Start, Stop, settle
from mada_optim.rule import LR

#: How many times the variance that noise gives to a mean has to be exceeded by the mean's square before it counts.
NOISE = 2.0

#: The sums that a mean is taken from: of hypergradients, of ones, and the share of a variance in it.
MEANS = ("mean", "mean_weight", "mean_noise")


@dataclass(frozen=True)
class LearnedLR(Learner):
    """Learns a factor on the learning rate that is set or scheduled.

    Its hypergradient is that of ln lr, from a decayed trace of the displacement of the weights. Each is divided by its
    root mean square and clipped; of the running mean of these, what exceeds its noise moves ln lr, by at most `reach`
    in a step. lr falls no faster than 1 / (1 + t / fall), as a hypergradient sees at once what noise costs and only
    later what it finds. It rises above its start only as far as the steps since then agree. The numbers are from trials
    on small networks, docs/lab-notebook.md.

        AutoMuon(params, learn=LearnedLR(bounds={"lr": (0.01, 1.0)}))     # never above the start

    Args:
        rate: Hyper learning rate of ln lr, >= 0.
        horizon: Decay of the trace, in [0, 1): it looks back over some 1 / (1 - horizon) steps. 0: over one step.
        fall: Steps, >= 0: until step t, lr falls to no less than 1 / (1 + t / fall) of where it starts, or of where the
            shapes say, whichever is lower. 0: it may fall at once.
        freeze: Share of the largest lr that a scheduler has set, in [0, 1]: while the present one is below it, the
            factor stays. 0: it never does.
        scope: Over what the factor is one: "global", "group" or "tensor".
        memory: Decay of the mean square that hypergradients are divided by the root of, in [0, 1). 0: no division.
        averaging: Decay of the running mean, in [0, 1). 0: along each hypergradient. Needs `memory`.
        reach: How far ln lr goes at most in one step, >= 0; what the mean has gathered counts by
            exp(-distance / reach) once it has moved. 0: any distance, and nothing is forgotten.
        rise: How far steps have to agree before lr rises above its start, in [0, 1). 0: it may rise at once. Needs
            `memory`.
        clip: Each hypergradient, after the division, is clipped to [-clip, clip], >= 0.
        start: Number of applied steps before the first hyper-step.
        stop: Number of applied steps after which the factor stays; None for no end.
        bounds: {"lr": (low, high)} of the factor, > 0, in the place of (1e-4, 1e4).

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
    """

    may_give_nan: ClassVar[bool] = False

    names: tuple[str, ...] = field(default=(LR.name,), init=False, repr=False)
    rate: Amount = 1.0
    horizon: Decay = 0.9999
    fall: Amount = 300.0
    freeze: Share = 0.4
    scope: Scope = "global"
    _: KW_ONLY
    memory: Decay = 0.999
    averaging: Decay = 0.9
    reach: Amount = 0.1
    rise: Decay = 0.65
    clip: Limit = 1.0
    start: Start = 10
    stop: Stop = None
    bounds: Bounds = NONE

    def __post_init__(self) -> None:
        settle(self, vars(self))
        self._can_be_weighed()

    def _can_be_weighed(self) -> None:
        """Refuses a mean, or evidence, of hypergradients whose size is not known."""
        for name in ("averaging", "rise"):
            if getattr(self, name) and not self.memory:
                remedy = f"give it one, such as 0.999, or set {name}=0"
                raise ValueError(f"{name}={getattr(self, name)}: expected a memory > 0, got 0; {remedy}")

    def init(self, q: Tensor, info: StepInfo) -> Memory:
        """What the numbers ask for: mean square, mean, evidence, each with its weight, and the bounds that move."""
        zero = torch.zeros_like(q)
        kept = ["square", "weight"] * (self.memory > 0) + [*MEANS] * (self.averaging > 0)
        kept += ["largest_lr"] * (self.freeze > 0) + ["evidence", "ceiling"] * (self.rise > 0)
        memory = {name: zero.clone() for name in kept}
        return memory | ({"floor": torch.full_like(q, info.lr_floor)} if self.fall else {})

    def step(self, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
        """A step of ln lr, (rows, 1), along what its hypergradients agree on."""
        now = dict(memory)
        active = info.moves.unsqueeze(-1)
        if self.freeze:
            awake, now["largest_lr"] = self.awake(info.scheduled_lr().unsqueeze(-1), memory["largest_lr"])
            active = active & awake
        new, learned = self._moved(q, h, memory, info)
        now |= {name: torch.where(active, x, memory[name]) for name, x in learned.items()}
        return torch.where(active, new, q), now

    def _moved(self, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
        """Where ln lr goes in a step that counts, and what is remembered of it."""
        now: Memory = {}
        if self.memory:
            h, now["square"], now["weight"] = self.normalize(h, memory["square"], memory["weight"])
        h = torch.clamp(h, -self.clip, self.clip)
        if self.rise:
            now["ceiling"], now["evidence"] = self.testify(h, memory["ceiling"], memory["evidence"])
        if self.averaging:
            h, *sums = self.weigh(h, *(memory[name] for name in MEANS))
        new = q - self.rate * h
        if self.reach:
            new = torch.clamp(new, q - self.reach, q + self.reach)
        low = self.lowest(q, info.steps.unsqueeze(-1), memory["floor"]) if self.fall else info.low
        high = self.highest(q, now["ceiling"]) if self.rise else info.high
        new = torch.clamp(new, torch.maximum(low, info.low), torch.minimum(high, info.high))
        if self.averaging:
            now |= zip(MEANS, self.forget(new - q, *sums) if self.reach else sums, strict=True)
        return new, now

    def awake(self, lr: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the scheduled lr is not far below the largest so far, and that, with this one.

        A schedule that takes lr down is right about the end of a run, of which a hypergradient knows nothing: it would
        take a learned lr up again.
        """
        largest = torch.maximum(lr, largest)
        return lr >= self.freeze * largest, largest

    def normalize(self, h: Tensor, square: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`h` over its root mean square, and the mean square and its weight with `h` in them.

        The size of a hypergradient depends on the loss, on the number of weights and on lr, and says little of how far
        to go; its sign, and how steady that is, do. Means of ones correct the bias, as Adam's do.
        """
        largest = torch.finfo(h.dtype).max
        square = torch.clamp(self.memory * square + (1 - self.memory) * h**2, max=largest)
        weight = self.memory * weight + (1 - self.memory)
        size = (square / weight).sqrt()
        return torch.where(size > 0, h / size, 0.0), square, weight

    def weigh(self, h: Tensor, mean: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the running mean of `h` what noise alone wouldn't have made, and the sums that it is taken from.

        Hypergradients of size 1 whose signs are drawn have a mean whose square is about `noise / weight^2`: so much is
        no reason to move. Of a mean r,

            r max(0, 1 - NOISE noise / (weight r)^2)

        is left, the positive part of James and Stein's estimator (1961). Without it lr wanders by as much as its hyper
        learning rate lets it, wherever nothing is to be learned.
        """
        past, new = self.averaging, 1 - self.averaging
        mean, weight, noise = past * mean + new * h, past * weight + new, past**2 * noise + new**2
        square = mean**2
        kept = torch.clamp(1 - NOISE * noise / torch.where(square > 0, square, 1.0), min=0.0)
        return kept * mean / weight, mean, weight, noise

    def forget(self, moved: Tensor, mean: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sums that `weigh` takes a mean from, after ln lr has moved.

        Hypergradients were taken where ln lr was, and say the less of where it is, the farther that is: each counts by
        exp(-distance / reach). So an lr that has gone too far gathers new evidence there before it goes on, instead of
        being carried by the old.
        """
        kept = torch.exp(-moved.abs() / self.reach)
        return kept * mean, kept * weight, kept**2 * noise

    def lowest(self, q: Tensor, steps: Tensor, floor: Tensor) -> Tensor:
        """How low ln lr may go after so many applied `steps`, where it starts at ln lr_0 = `floor`.

        That is lr_0 / (1 + t / fall) after step t; one that is below falls no farther. A hypergradient looks back, on t
        steps at most: it sees at once how weights with little gradient stray by their noise, as attention's do early
        on, and what they find by that only when it is found. So that lr was too large is believed the more, the more
        steps say so. Falling as 1 / t, its steps still add up to any distance (Robbins and Monro 1951), as under no
        faster power.
        """
        return torch.minimum(q, floor - torch.log1p(steps / self.fall))

    def testify(self, h: Tensor, ceiling: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """How high lr may go, as ln of its factor, and the evidence for more, after one more step.

        A step adds -h, clamped to [-1, 1], less `rise`; h is over its root mean square. A positive sum is spent at
        once: the ceiling rises by the sum times reach / (1 - rise). So it rises by `reach` per step where all steps
        agree. A negative sum stays until later steps make it good, however old it is.

        The sum forgets nothing because the first steps tell most (docs/lab-notebook.md). On trained weights < g, S > on
        batches that come for the first time is positive, as on validation data: a smaller lr is better. When batches
        come again it turns negative, as g then points back along steps that these very batches made: a larger lr would
        only fit them better. With fresh weights and an lr that is too small it is negative from the start.
        """
        evidence = evidence - torch.clamp(h, -1.0, 1.0) - self.rise
        spent = torch.clamp(evidence, min=0.0)
        scale = self.reach / (1 - self.rise) if self.reach else math.inf
        return ceiling + torch.where(spent > 0, scale * spent, 0.0), evidence - spent

    @staticmethod
    def highest(q: Tensor, ceiling: Tensor) -> Tensor:
        """How high ln lr may go under a `ceiling`; one that is above rises no farther."""
        return torch.maximum(q, ceiling)
