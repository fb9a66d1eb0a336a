"""What a learned lr does where the user changes the weights between steps: masks, clamps, norms, averages.

    python -m benchmarks.changed_weights [--steps 500] [--seeds 3] [--cases "pruning mask,clamp"]

From the repository root; a minute per case and seed on one core. AutoMuon on a small regression. For each case:
the learned lr; that of a run whose trace is kept by hand, as the sum of moves to which what the user did is added; the
loss over the last tenth of the run; and that with lr left at its start. The lr is that of all weights but hidden
matrices.
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mada_optim import AutoMuon, LearnedLR
from mada_optim.engines.numbers import learning_rate
from mada_optim.matrices import hidden_matrices

KEPT = 0.1  # share of the weights that a mask keeps
CPU = torch.device("cpu")


class Change:
    """What a user does to the weights after each step, `steps` in all. This one does nothing.

    Args:
        net: Whose weights.
        steps: Of the run.
    """

    def __init__(self, net: nn.Module, steps: int) -> None:
        self.params, self.steps = list(net.parameters()), steps
        self.matrices = [p for p in self.params if p.ndim == 2]
        drawn = torch.Generator().manual_seed(7)
        self.masks = [(torch.rand(p.shape, generator=drawn) < KEPT).to(p.dtype) for p in self.matrices]
        self.kept = [p.detach().clone() for p in self.params]

    def __call__(self, step: int) -> None:
        """Changes them after `step`, counted from 0."""

    def mask(self) -> None:
        for p, mask in zip(self.matrices, self.masks, strict=True):
            p.mul_(mask)


class PruningMask(Change):
    def __call__(self, step: int) -> None:
        self.mask()


class UnitRows(Change):
    def __call__(self, step: int) -> None:
        for p in self.matrices:
            p.div_(p.norm(dim=1, keepdim=True))


class Clamp(Change):
    def __call__(self, step: int) -> None:
        for p in self.params:
            p.clamp_(-0.1, 0.1)


class ClampOfData(Change):
    """The same by `p.data`, of which the tensor's version counter doesn't tell."""

    def __call__(self, step: int) -> None:
        for p in self.params:
            p.data.clamp_(-0.1, 0.1)


class MaximumNorm(Change):
    def __call__(self, step: int) -> None:
        for p in self.matrices:
            p.renorm_(2, 0, 0.5)


class Orthogonal(Change):
    """Square matrices are replaced by the orthogonal factor of their QR decomposition."""

    def __call__(self, step: int) -> None:
        for p in self.matrices:
            if p.shape[0] == p.shape[1]:
                q, r = torch.linalg.qr(p)
                p.copy_(q * r.diagonal().sign())


class LateMask(Change):
    """From the middle of the run on."""

    def __call__(self, step: int) -> None:
        if step >= self.steps // 2:
            self.mask()


class GradualPruning(Change):
    """From the first quarter of the run to the third, the smallest weights are masked, more and more, up to .9."""

    def __call__(self, step: int) -> None:
        begin, end = self.steps // 4, 3 * self.steps // 4
        if begin <= step <= end and step % 10 == 0:
            pruned = (1 - KEPT) * (1 - (1 - (step - begin) / (end - begin)) ** 3)
            self.masks = [(p.abs() > p.abs().quantile(pruned)).to(p.dtype) for p in self.matrices]
        if step >= begin + 10:
            self.mask()


class WeightAveraging(Change):
    """Every 50 steps, the weights are replaced by their exponential average."""

    def __call__(self, step: int) -> None:
        torch._foreach_lerp_(self.kept, self.params, 0.05)
        if step % 50 == 49:
            torch._foreach_copy_(self.params, self.kept)


class Lookahead(Change):
    """Every 5 steps, the weights go half of the way back to where they were (Zhang et al., NeurIPS 2019)."""

    def __call__(self, step: int) -> None:
        if step % 5 == 4:
            torch._foreach_lerp_(self.kept, self.params, 0.5)
            torch._foreach_copy_(self.params, self.kept)


CASES: dict[str, type[Change]] = {
    "no change": Change,
    "pruning mask": PruningMask,
    "unit rows": UnitRows,
    "clamp": Clamp,
    "clamp of p.data": ClampOfData,
    "maximum norm": MaximumNorm,
    "orthogonal (QR)": Orthogonal,
    "late mask": LateMask,
    "gradual pruning": GradualPruning,
    "weight averaging": WeightAveraging,
    "Lookahead": Lookahead,
}


class TraceByHand:
    """The trace of each parameter as a sum of moves, by hand and in fp64, in the place of the optimizer's own.

    Args:
        opt: Learns lr from its trace, over all groups.
    """

    def __init__(self, opt: AutoMuon) -> None:
        self.opt = opt
        self.places = [(group, j, p) for group in opt.param_groups for j, p in enumerate(group["params"])]
        self.traces = [torch.zeros_like(p, dtype=torch.float64) for _, _, p in self.places]

    def step(self) -> None:
        """A step whose hypergradient is of these traces; then they are moved as the weights are."""
        before = [p.detach().double() for _, _, p in self.places]
        for (_, _, p), x, trace in zip(self.places, before, self.traces, strict=True):
            if p in self.opt.state:
                self.opt.state[p]["anchor"].copy_(x - trace)
        self.opt.step()
        for (group, j, p), x, trace in zip(self.places, before, self.traces, strict=True):
            seen = hidden_matrices.view(self.opt.rule, group, hidden_matrices.flags(self.opt.rule, group)[j])
            kept = 1 - learning_rate(seen, CPU) * group["weight_decay"]
            trace.mul_(group["horizon"] * kept).add_(p.detach().double() - x)

    def add(self, displacements: list[Tensor]) -> None:
        """Undoes in the traces what the user has undone in the weights."""
        torch._foreach_add_(self.traces, displacements)


class Outcome(NamedTuple):
    """How a run ends: the lr that was learned, and the mean loss over its last tenth."""

    lr: float
    loss: float


def network() -> nn.Module:
    """Two hidden layers; of what it starts from, torch's seed decides."""
    return nn.Sequential(nn.Linear(16, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 4))


def run(
    change_of: Callable[[nn.Module, int], Change], steps: int, seed: int, by_hand: bool, rate: float = LearnedLR.rate
) -> Outcome:
    """Trains; `rate` is of the learned lr, and `by_hand` says whether its trace is."""
    torch.manual_seed(seed)
    net = network()
    opt = AutoMuon(net.named_parameters(), learn=LearnedLR(rate))
    drawn, losses = torch.Generator().manual_seed(seed + 1), list[float]()
    change, oracle = change_of(net, steps), TraceByHand(opt)
    for step in range(steps):
        x = torch.randn(128, 16, generator=drawn)
        loss = (net(x) - x[:, :4].sin() - x[:, 4:8] * x[:, 8:12]).square().mean()
        opt.zero_grad()
        loss.backward()
        (oracle if by_hand else opt).step()
        with torch.no_grad():
            left = [p.double() for p in change.params]
            change(step)
            oracle.add([p.double() - x for p, x in zip(change.params, left, strict=True)])
        losses.append(loss.item())
    lr, last = opt.coefficients()["lr"], losses[-max(steps // 10, 1) :]
    assert isinstance(lr, float)
    return Outcome(lr, sum(last) / len(last))


def compared(case: str, steps: int, seed: int) -> tuple[Outcome, Outcome, Outcome]:
    """A run, the same with its trace by hand, and the same with lr left at its start."""
    own, by_hand = (run(CASES[case], steps, seed, by_hand=by_hand) for by_hand in (False, True))
    return own, by_hand, run(CASES[case], steps, seed, by_hand=False, rate=0.0)


def table(cases: list[str], steps: int, seeds: int) -> None:
    """Prints a row per case and seed, and the geometric means of each case's ratios."""
    print(f"{'case':18}{'seed':>5}{'lr':>10}{'by hand':>10}{'ratio':>7}{'loss':>9}{'lr fixed':>10}{'ratio':>7}")
    for case in cases:
        of_lr, of_loss = list[float](), list[float]()
        for seed in range(seeds):
            own, by_hand, fixed = compared(case, steps, seed)
            of_lr.append(own.lr / by_hand.lr)
            of_loss.append(own.loss / fixed.loss)
            rates, losses = f"{own.lr:10.2g}{by_hand.lr:10.2g}{of_lr[-1]:7.2f}", f"{own.loss:9.4f}{fixed.loss:10.4f}"
            print(f"{case:18}{seed:5}{rates}{losses}{of_loss[-1]:7.2f}", flush=True)
        means = (math.exp(sum(map(math.log, x)) / seeds) for x in (of_lr, of_loss))
        print("{:18}{:>5}{:27.2f}{:26.2f}".format(case, "mean", *means), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=lambda x: x.split(","), default=list(CASES), help="names, with commas between")
    options = parser.parse_args()
    unknown = [case for case in options.cases if case not in CASES]
    if unknown:
        parser.error(f"--cases: expected some of {', '.join(CASES)}, got {', '.join(unknown)}")
    table(options.cases, options.steps, options.seeds)


if __name__ == "__main__":
    main()
