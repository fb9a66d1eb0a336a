"""Gradients that want to break an optimizer, and a referee who looks at every step.

A `Case` is one optimizer and one sequence of gradients; `play` runs it and counts what must never happen.
"""

import math
from dataclasses import dataclass, fields

import torch
from hypothesis import strategies as st

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.checks import intervals
from mada_optim.engines.eager import compute_dtype, largest_gradient
from mada_optim.rule import option_key
from mada_optim.rules import RULES
from tests.problems import everything, same_bits

ELEMENTS = 4
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
ENGINES = [(engine, rule) for engine in ("eager", "auto") for rule in RULES]
DENORMAL = {torch.float32: 1e-45, torch.bfloat16: 1e-40, torch.float64: 5e-324}


@dataclass(frozen=True)
class Case:
    """An optimizer that learns all it can, and its gradients as runs of (vector, repeats, what becomes of its sign)."""

    rule: str
    dtype: torch.dtype
    options: dict
    hyper: dict
    runs: list

    def gradients(self):
        for vector, repeats, sign in self.runs:
            for k in range(repeats):
                minus = (sign == "alternate" and k % 2) or (sign == "turn" and 2 * k >= repeats)
                yield torch.tensor([-x if minus else x for x in vector], dtype=torch.float64).to(self.dtype)

    def optimizer(self):
        p = torch.nn.Parameter(torch.linspace(-1, 1.5, ELEMENTS).to(self.dtype))
        learner = HyperSGD(*RULES[self.rule].coefficient_names(), "lr", start=0, **self.hyper)
        return HyperOptimizer([p], rule=self.rule, learn=learner, **self.options)


def vectors(dtype):
    """Elements of both signs and of size 10^e, e up to 3, 15.6 (the last that fp32 takes) or 30; zero; denormal."""

    def below(tenths):
        sizes = [10 ** (e / 10) for e in range(-300, tenths + 1)]
        rare = [0.0, DENORMAL[dtype]] * (len(sizes) // 10)
        table = [sign * x for x in rare + sizes for sign in (1.0, -1.0)]
        return st.lists(st.sampled_from(table), min_size=ELEMENTS, max_size=ELEMENTS)

    return st.one_of(*map(below, (30, 156, 156, 300)))


@st.composite
def cases(draw, dtype):
    """Any rule, hyper learning rates up to 1e3, and up to 50 gradients."""
    engines = ENGINES if dtype == torch.float32 else ENGINES[: len(RULES)]
    (engine, rule), lr, weight_decay = (draw(st.sampled_from(x)) for x in (engines, (1e-4, 1e-2, 1.0), (0.0, 0.1)))
    hyper = {
        # test_extremes has what happens where lr * weight_decay reaches 1
        "bounds": {"lr": (1e-4, min(1e4, 0.9 / (lr * weight_decay)) if weight_decay else 1e4)},
        "lr": draw(st.sampled_from((1e-3, 1.0, 1e3))),
        "momentum": draw(st.sampled_from((0.0, 0.0, 0.5, 0.99))),
        "clip": draw(st.sampled_from((10.0, math.inf))),
        "rebound": draw(st.sampled_from((2.0, 2.0, math.inf))),
    }
    options = {
        "lr": lr,
        "weight_decay": weight_decay,
        "maximize": draw(st.booleans()),
        "state_dtype": draw(st.sampled_from((None, None, torch.bfloat16))),
        "engine": engine,
    }
    if "eps" in RULES[rule].hyper_parameters:
        options["eps"] = draw(st.sampled_from((1e-12, 1e-8, 1e-3)))
    run = st.tuples(vectors(dtype), st.integers(1, 10), st.sampled_from(("keep", "turn", "alternate")))
    return Case(rule, dtype, options, hyper, draw(st.lists(run, min_size=1, max_size=5)))


@dataclass
class Tally:
    """What was seen; from `outside` on, all must stay 0."""

    sequences: int = 0
    steps: int = 0
    skipped: int = 0  # steps with an element beyond what the dtype takes
    frozen: int = 0  # steps whose hypergradients overflowed
    turned: int = 0  # coefficients on a bound whose hypergradient points inside
    outside: int = 0  # coefficients out of their interval
    nan: int = 0  # tensors with NaN or infinity: weights, slots, coefficients, velocity
    stuck: int = 0  # coefficients that stay on a bound, of those that turned
    touched: int = 0  # skipped steps that changed a bit
    thawed: int = 0  # frozen steps that moved a coefficient or the velocity

    def __add__(self, other):
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def faults(self):
        return self.outside + self.nan + self.stuck + self.touched + self.thawed


class Referee:
    """Looks at an optimizer of one parameter before and after each step."""

    def __init__(self, opt):
        self.opt, self.group, self.tally = opt, opt.param_groups[0], Tally(sequences=1)
        (learner,) = opt.learners
        self.lr, self.momentum, self.clip, self.rebound = learner.lr, learner.momentum, learner.clip, learner.rebound
        self.intervals = intervals(opt.rule, learner.bounds, opt.learned)
        self.held = {}  # by coefficient that momentum has held on its bound against a hypergradient: the size of that

    def step(self, g):
        self.group["params"][0].grad = g
        self.tally.steps += 1
        if self.usable(g):
            self.counted_step()
        else:
            self.skipped_step()
        inside = (self.intervals[q].low <= x <= self.intervals[q].high for q, x in self.coefficients().items())
        self.tally.outside += sum(not x for x in inside)

    def usable(self, g):
        state = self.opt.state.get(self.group["params"][0], {})
        dtypes = (compute_dtype(g), *(state[slot.name].dtype for slot in self.opt.rule.slots if slot.name in state))
        return bool((g.double().abs() <= min(map(largest_gradient, dtypes))).all())

    def coefficients(self):
        return {q: self.group[option_key(q)].item() for q in self.opt.learned}

    def skipped_step(self):
        self.tally.skipped += 1
        self.tally.touched += step_changes_a_bit(self.opt)

    def counted_step(self):
        q, velocity, first = self.coefficients(), self.group["hyper_velocity"].clone(), not self.group["applied_steps"]
        self.opt.step()
        h = self.group["hypergradient"]
        frozen = not h.isfinite().all()
        self.tally.nan += sum(not x.isfinite().all() for x in everything(self.opt)) - frozen  # of these, `h` may be
        if frozen:
            self.tally.frozen += 1
            same = q == self.coefficients() and torch.equal(velocity, self.group["hyper_velocity"])
            self.tally.thawed += not same
        elif not first:
            for name, x in zip(self.opt.learned, h.clamp(-self.clip, self.clip).tolist(), strict=True):
                self.release(name, q[name], x)

    def release(self, name, q, h):
        """On a bound, a hypergradient that points inside releases a coefficient at once; with momentum and a rebound,
        the second that is no smaller does; without a rebound, when the velocity is used up."""
        interval = self.intervals[name]
        inside = (q == interval.low and h < 0) or (q == interval.high and h > 0)
        inside = inside and self.lr * (1 - self.momentum) * abs(h) > 4 * math.ulp(q)  # else too little to move it
        stays = inside and self.coefficients()[name] == q
        self.tally.turned += inside
        late = self.rebound < math.inf and self.held.get(name, math.inf) <= abs(h)
        self.tally.stuck += stays and (not self.momentum or late)
        self.held[name] = abs(h) if stays else math.inf


def step_changes_a_bit(opt):
    """Steps, and tells whether a bit has changed; the state at t = 0, which any first step makes, is none."""
    fresh, before = not opt.state, everything(opt)
    opt.step()
    if fresh:
        opt.state.clear()
    return not same_bits(before, everything(opt))


def play(case):
    """The tally of one case."""
    referee = Referee(case.optimizer())
    for g in case.gradients():
        referee.step(g)
    return referee.tally
