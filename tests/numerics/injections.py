"""One bad number in one gradient of a run, and a twin who never saw it. Shared by the tests and the benchmark."""

import copy
import math
import random
from dataclasses import dataclass

import torch

from mada_optim import HyperOptimizer
from mada_optim.rules import RULES
from tests.numerics.adversary import DTYPES, ENGINES, step_changes_a_bit
from tests.problems import everything, fast, give_gradients, parameters, same_bits

STEPS = 6


@dataclass(frozen=True)
class Verdict:
    """Whether the step with the bad number changed no bit, and whether all later ones equal the twin's, bit for bit."""

    untouched: bool
    recovered: bool


@dataclass(frozen=True)
class Injection:
    """Where a bad number goes, and whom it hits."""

    rule: str
    engine: str
    learn: tuple
    dtype: torch.dtype
    scope: str
    step: int
    bad: float
    seed: int

    @classmethod
    def draw(cls, seed):
        one = random.Random(seed)
        engine, rule = one.choice(ENGINES)
        dtype = torch.float32 if engine == "auto" else one.choice(DTYPES)  # the loops' only one
        learn = one.choice([(), (*RULES[rule].coefficient_names(), "lr")])
        scope = one.choice(("global", "group", "tensor"))
        largest = torch.finfo(dtype).max  # finite, and its square is not
        bad = one.choice((math.nan, math.inf, -math.inf, largest, -largest))
        return cls(rule, engine, learn, dtype, scope, one.randrange(STEPS), bad, seed)

    def optimizer(self, params):
        learner = fast(*self.learn, scope=self.scope) if self.learn else ()
        return HyperOptimizer(params, lr=1e-2, rule=self.rule, learn=learner, weight_decay=0.1, engine=self.engine)

    def spoil(self, params):
        """One random element, of any parameter that has any."""
        one = random.Random(self.seed)
        p = one.choice([p for p in params if p.numel()])
        p.grad.view(-1)[one.randrange(p.numel())] = self.bad


def inject(injection):
    """Runs both, the one with a bad step more, and compares all that a step may change."""
    torch.manual_seed(injection.seed)
    params = parameters(injection.dtype)
    twin_params = copy.deepcopy(params)
    opt, twin = injection.optimizer(params), injection.optimizer(twin_params)
    untouched = recovered = True
    for step in range(STEPS):
        if step == injection.step:
            give_gradients(params, 99)
            injection.spoil(params)
            untouched = not step_changes_a_bit(opt)
        for one, its in ((opt, params), (twin, twin_params)):
            give_gradients(its, step)
            one.step()
        recovered &= same_bits(everything(opt), everything(twin))
    return Verdict(untouched, recovered)
