"""The traces of the published optimizer, replayed by ours."""

import math

import torch

from mada_optim import MADA


def replay(trace):
    """After each step: our optimizer, the parameters by name, and what the trace expects."""
    algorithm, start = trace["algorithm"], dict(trace["algorithm"]["initial_coefficients"])
    params = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in trace["initial_params"].items()}
    opt = MADA(
        params.values(),
        betas=(start.pop("beta1"), start.pop("beta2")),
        hyper_start=0,
        hyper_clip=math.inf,  # the published training loop clips, not the optimizer
        rule="mada_released",
        learn="all",
        **{key: algorithm[key] for key in ("lr", "eps", "hyper_lr", "hyper_momentum")},
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
