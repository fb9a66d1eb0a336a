"""LearnedLR, which learns the learning rate from the displacement of the weights."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mada_optim.learning.learner import Learner, Memory, StepInfo
from mada_optim.learning.options import NONE, Amount, Bounds, Decay, Limit, Scope, Share, Start, Stop, settle
from mada_optim.rule import LR

#: A running mean counts where its square exceeds this multiple of the variance that pure noise would give it.
NOISE = 2.0

#: The sums of a running mean: of hypergradients, of ones, and of squared weights, for the variance.
MEANS = ("mean", "mean_weight", "mean_noise")


@dataclass(frozen=True)
class LearnedLR(Learner):
    """Learns a factor on the learning rate that is set or scheduled.

    The hypergradient of ln lr comes from a decayed trace of the displacement of the weights. It is divided by its root
    mean square and clipped. The part of its running mean that exceeds the noise moves ln lr, by at most `reach` per
    step. Two limits hold the factor: it falls no faster than 1 / (1 + t / fall), because early hypergradients see the
    cost of noise before its benefit; and it rises above 1 only as far as the steps so far agree. The default values are
    from trials on small networks, docs/inside/lab-notebook.md.

        AutoMuon(params, learn=LearnedLR(bounds={"lr": (0.01, 1.0)}))     # never above the initial learning rate

    Args:
        rate: Hyper learning rate of ln lr, >= 0.
        horizon: Decay of the trace, in [0, 1): it looks back over about 1 / (1 - horizon) steps. 0: over one step.
        fall: Steps, >= 0: at step t, lr is at least 1 / (1 + t / fall) of its initial value, or of the value computed
            from the matrix shapes if that is lower. 0: no such floor.
        freeze: Share of the largest scheduled lr so far, in [0, 1]: while the scheduled lr is below it, the factor
            stays. 0: it never does.
        scope: The parameters that share a factor: "global" (all), "group" or "tensor".
        memory: Decay of the mean square that normalizes hypergradients, in [0, 1). 0: no normalization.
        averaging: Decay of the running mean, in [0, 1). 0: each hypergradient moves ln lr by itself. Needs `memory`.
        reach: Largest change of ln lr in a step, >= 0. After a change by x, the running mean keeps `exp(-|x| / reach)`
            of its weight. 0: no limit, and nothing is forgotten.
        rise: Agreement of steps that is needed before the factor rises above 1, in [0, 1). 0: it may rise at once.
            Needs `memory`.
        clip: Largest size of a normalized hypergradient, >= 0: each is clipped to [-clip, clip].
        start: Number of applied steps before the first hyper-step.
        stop: Number of applied steps after which the factor stays, > start; None for no end.
        bounds: {"lr": (low, high)} of the factor, > 0, instead of (1e-4, 1e4).

    Raises:
        ValueError: A value is not allowed. The message names it, the allowed values and a remedy.
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
        for name in ("averaging", "rise"):
            if getattr(self, name) and not self.memory:
                remedy = f"give it one, such as 0.999, or set {name}=0"
                raise ValueError(f"{name}={getattr(self, name)}: expected a memory > 0, got 0; {remedy}")

    def init(self, q: Tensor, info: StepInfo) -> Memory:
        """Returns the memory of the options that are on: mean square, running mean, evidence, limits."""
        zero = torch.zeros_like(q)
        kept = ["square", "weight"] * (self.memory > 0) + [*MEANS] * (self.averaging > 0)
        kept += ["largest_lr"] * (self.freeze > 0) + ["evidence", "ceiling"] * (self.rise > 0)
        memory = {name: zero.clone() for name in kept}
        return memory | ({"floor": torch.full_like(q, info.lr_floor)} if self.fall else {})

    def step(self, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
        """One hyper-step of ln lr, (rows, 1)."""
        now = dict(memory)
        active = info.moves.unsqueeze(-1)
        if self.freeze:
            awake, now["largest_lr"] = self.awake(info.scheduled_lr().unsqueeze(-1), memory["largest_lr"])
            active = active & awake
        new, learned = self._moved(q, h, memory, info)
        now |= {name: torch.where(active, x, memory[name]) for name, x in learned.items()}
        return torch.where(active, new, q), now

    def _moved(self, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
        """The new ln lr and memory of a step that moves."""
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
        high = torch.maximum(q, now["ceiling"]) if self.rise else info.high  # an lr above the ceiling stays
        new = torch.clamp(new, torch.maximum(low, info.low), torch.minimum(high, info.high))
        if self.averaging:
            now |= zip(MEANS, self.forget(new - q, *sums) if self.reach else sums, strict=True)
        return new, now

    def awake(self, lr: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the scheduled lr is at least `freeze` times the largest so far, and the new largest.

        When a schedule decays lr, hypergradients would raise the factor again: they don't see the end of the run.
        """
        largest = torch.maximum(lr, largest)
        return lr >= self.freeze * largest, largest

    def normalize(self, h: Tensor, square: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`h` over its root mean square, and the new mean square and its weight.

        The size of a hypergradient depends on the loss, the number of weights and lr, and says little about how far lr
        should move. Its sign does, and how steady the sign is. The weight, a mean of ones, corrects the bias.
        """
        largest = torch.finfo(h.dtype).max
        square = torch.clamp(self.memory * square + (1 - self.memory) * h**2, max=largest)
        weight = self.memory * weight + (1 - self.memory)
        size = (square / weight).sqrt()
        return torch.where(size > 0, h / size, 0.0), square, weight

    def weigh(self, h: Tensor, mean: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The part of the running mean of `h` that exceeds noise, and the new sums of the mean.

        Hypergradients of size 1 with random signs have a mean r with r^2 of about `noise / weight^2`. The step uses

            r max(0, 1 - NOISE noise / (weight r)^2),

        the positive part of James and Stein's estimator (1961). Without it, lr drifts at random where there is nothing
        to learn.
        """
        past, new = self.averaging, 1 - self.averaging
        mean, weight, noise = past * mean + new * h, past * weight + new, past**2 * noise + new**2
        square = mean**2
        kept = torch.clamp(1 - NOISE * noise / torch.where(square > 0, square, 1.0), min=0.0)
        return kept * mean / weight, mean, weight, noise

    def forget(self, moved: Tensor, mean: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of `weigh` after ln lr has moved: multiplied by exp(-|moved| / reach).

        The old hypergradients were taken at another lr, so they count less. An lr that has moved too far needs new
        evidence to go on.
        """
        kept = torch.exp(-moved.abs() / self.reach)
        return kept * mean, kept * weight, kept**2 * noise

    def lowest(self, q: Tensor, steps: Tensor, floor: Tensor) -> Tensor:
        """The lower limit of ln lr after `steps` applied steps: ln of lr_0 / (1 + steps / fall), ln lr_0 = `floor`.

        An lr that is below the limit already falls no farther. Early hypergradients see the cost of noise before its
        benefit, above all of weights with small gradients, such as attention's, and push the rate too low; the floor
        slows that down. With a floor of 1 / t, steps still add up to any distance (Robbins and Monro 1951); with a
        higher power of 1 / t they would not.
        """
        return torch.minimum(q, floor - torch.log1p(steps / self.fall))

    def testify(self, h: Tensor, ceiling: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """The upper limit of ln of the factor, and the evidence for a higher one, after a step with the normalized `h`.

        Each step adds -h, clamped to [-1, 1], minus `rise` to the evidence. A positive sum is spent at once: the
        ceiling rises by the sum times reach / (1 - rise), so by `reach` per step where all steps agree. A negative sum
        stays until later steps outweigh it.

        The sum forgets nothing because the first steps tell most (docs/inside/lab-notebook.md). On trained weights, h
        is positive on new batches, as on validation data: a smaller lr is better. On repeated batches it turns
        negative, because g points back along the steps that the same batches made: a larger lr would only fit these
        batches better. With fresh weights and too small an lr, h is negative from the first step.
        """
        evidence = evidence - torch.clamp(h, -1.0, 1.0) - self.rise
        spent = torch.clamp(evidence, min=0.0)
        scale = self.reach / (1 - self.rise) if self.reach else math.inf
        return ceiling + torch.where(spent > 0, scale * spent, 0.0), evidence - spent
