"""Drives one coefficient through a whole optimizer, by gradients made for it."""

import copy
import math

import pytest
import torch

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.checks import intervals
from mada_optim.rule import option_key
from mada_optim.rules import RULES
from tests.problems import everything

BLENDS = (
    "beta3",
    "rho",
    "c",
    "gamma",
    "momentum",
    "omega",
)  # away from the values where others of these lose their derivative


class Driver:
    """Gives gradients whose hypergradient of the one learned coefficient is what it wants: it is linear in them."""

    def __init__(self, rule, name, momentum, engine, **bounds):
        self.p = torch.nn.Parameter(torch.linspace(-1.0, 1.5, 6))
        learner = HyperSGD(name, lr=1e3, momentum=momentum, clip=math.inf, start=0, rebound=2.0, **bounds)
        start = {q: 0.8 for q in BLENDS if q in RULES[rule].coefficient_names()}
        if RULES[rule].matrix_weight is not None:
            self.p = torch.nn.Parameter(self.p.detach().reshape(2, 3))
        group = {"params": [self.p], "matrix": True}
        self.opt = HyperOptimizer([group], lr=1.0, rule=rule, learn=learner, engine=engine, **start)
        self.name, self.interval = name, intervals(self.opt.rule, learner.bounds, (name,))[name]
        for _ in range(3):  # after the first step betas have no say, for all of bias correction
            self.p.grad = torch.randn_like(self.p)
            self.opt.step()

    def value(self):
        return self.opt.param_groups[0][option_key(self.name)].item()

    def step(self, wanted):
        g, twin = torch.randn_like(self.p), copy.deepcopy(self.opt)
        twin.param_groups[0]["params"][0].grad = g
        twin.step()
        self.p.grad = g * (wanted / twin.hypergradients()[self.name])
        self.opt.step()
        assert self.opt.hypergradients()[self.name] == pytest.approx(wanted, rel=1e-2)
        assert all(x.isfinite().all() for x in everything(self.opt))
        assert self.interval.low <= self.value() <= self.interval.high
