"""Parameters and gradients that tests share."""

from contextlib import contextmanager

import pytest
import torch

from mada_optim import MADA, HyperOptimizer, HyperSGD, LearnedLR, StepInfo

MIDWAY = {"betas": (0.9, 0.95), "beta3": 0.1, "rho": 0.6, "c": 0.9, "gamma": 0.9}  # nothing sits on a bound


def parameters(dtype=torch.float32):
    """A matrix, a vector, a 0-d and an empty parameter."""
    shapes = [(3, 4), (5,), (), (0, 3)]
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]


def slots_at_0(rule, g):
    """The slots of a rule before its first step with the gradient `g`; those of rows lack the last dimension."""
    shapes = {True: g.shape[: max(g.ndim - 1, 1)], False: g.shape}
    return {
        x.name: torch.tensor(x.init, dtype=torch.float64) if x.scalar else g.new_full(shapes[x.per_row], x.init)
        for x in rule.slots
    }


def give_gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def train(opt, params, seeds):
    for seed in seeds:
        give_gradients(params, seed)
        opt.step()


def fast(*names, **numbers):
    """The paper's learner, of all coefficients unless some are named, moving them from the first possible step."""
    return HyperSGD(*(names or ("all",)), **{"lr": 1e-3, "momentum": 0.5, "start": 0, **numbers})


def along_trace(horizon=0.9, **numbers):
    """Learns lr from its trace by plain steps: no division, mean, floor, ceiling or freeze."""
    plain = dict.fromkeys(("memory", "averaging", "reach", "rise", "fall", "freeze"), 0.0)
    return LearnedLR(**{**plain, "horizon": horizon, "rate": 1e-2, "clip": 10.0, "start": 0, **numbers})


def step_info(rows=1, names=("lr",), ends=(-9.0, 9.0), steps=9.0, lr=1e-3, floor=0.0, moves=True):
    """What a learner is told of a step, for calls of its functions."""
    low, high = (torch.full((len(names),), float(x), dtype=torch.float64) for x in ends)
    steps, moves = torch.as_tensor(steps).double().expand(rows), torch.as_tensor(moves).expand(rows)
    rates = (1e-2,) * len(names)
    return StepInfo(names, low, high, rates, steps, moves, moves, floor, lambda: torch.full((rows,), lr).double())


def learning(params, **options):
    """MADA with all six coefficients moving from the first possible step; `learn=fast(...)` for some, or for scopes."""
    return MADA(params, **{**MIDWAY, "lr": 1e-2, "learn": fast(), **options})


def with_muon(params, **options):
    """MADA's coefficients and `omega`, Muon's weight on hidden matrices; fixed, unless `learn` says otherwise."""
    return HyperOptimizer(params, rule="mada_matrix", **{"betas": (0.9, 0.95), **options})


def everything(opt):
    """Copies of all that a step may change: parameters, state and coefficients."""
    tensors = [p.detach().clone() for group in opt.param_groups for p in group["params"]]
    for state in opt.state.values():
        tensors += [x.clone() for x in state.values()]
    for group in opt.param_groups:
        tensors += [x.clone() for x in group.values() if isinstance(x, torch.Tensor)]
    return tensors


def same_bits(xs, ys):
    return len(xs) == len(ys) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def assert_mixed_tensors_agree(engine):
    """Tensors that an engine takes beside some that it doesn't: one hypergradient over both, equal to the eager one."""
    torch.manual_seed(0)
    shapes = torch.randn(6, 4), torch.randn(5).double(), torch.randn(4, 3).T, torch.randn(3).bfloat16(), torch.randn(2)
    params = [torch.nn.Parameter(x) for x in shapes]
    twins = [torch.nn.Parameter(x.clone()) for x in shapes]
    mixed, slow = learning(params, engine=engine), learning(twins, engine="eager")
    for seed in range(8):
        give_gradients(params, seed)
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.clone()
        mixed.step()
        slow.step()
        assert mixed.hypergradients() == pytest.approx(slow.hypergradients(), rel=1e-3, abs=1e-6)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@contextmanager
def spied(owner, name):
    """Collects the arguments of each call of `owner.name`."""
    calls, original = [], getattr(owner, name)

    def call(*arguments):
        calls.append(arguments)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        yield calls
