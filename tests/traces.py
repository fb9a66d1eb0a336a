"""The traces of the published optimizer, replayed by ours."""

import math

import torch

from mada_optim import MADA, HyperSGD


def replay(trace):
    """After each step: our optimizer, the parameters by name, and what the trace expects."""
    algorithm, start = trace["algorithm"], dict(trace["algorithm"]["initial_coefficients"])
    params = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in trace["initial_params"].items()}
    learner = HyperSGD(
        "all",
        lr=algorithm["hyper_lr"],
        momentum=algorithm["hyper_momentum"],
        clip=math.inf,  # the published training loop clips, not the optimizer
        start=0,
    )
    opt = MADA(
        params.values(),
        algorithm["lr"],
        (start.pop("beta1"), start.pop("beta2")),
        algorithm["eps"],
        rule="mada_released",
        learn=learner,
        **start,
    )
    for given, expected in zip(trace["gradients"], trace["steps"], strict=True):
        for k, p in params.items():
            p.grad = torch.tensor(given[k])
        opt.step()
        yield opt, params, expected


def largest_hypergradients(trace):
    """The largest magnitude of each over the trace."""
    steps = trace["steps"]
    return {q: max(abs(step["hypergradient"][q]) for step in steps) for q in steps[0]["hypergradient"]}
