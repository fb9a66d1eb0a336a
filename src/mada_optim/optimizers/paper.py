"""The numbers of the paper's runs, as keywords of `MADA`."""

from typing import Any

from mada_optim.learning.hyper_sgd import HyperSGD

#: The intervals of the authors' code.
RELEASED_BOUNDS = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99), "beta3": (0.0, 0.99)}

#: The paper's GPT-2 runs are `MADA(params, lr=6e-4, weight_decay=0.1, **PAPER_GPT2)`.
PAPER_GPT2: dict[str, Any] = {
    "betas": (0.9, 0.95),
    "eps": 1e-6,
    "beta3": 0.0,
    "rho": 0.6,
    "c": 1.0,
    "gamma": 1.0,
    "learn": HyperSGD(
        "all",
        lr={"beta1": 5e-4, "beta2": 5e-4, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-1},
        momentum=0.0,
        clip=10.0,
        start=50,
        bounds=RELEASED_BOUNDS,
    ),
}

#: The paper's Shakespeare runs are `MADA(params, lr=1e-3, weight_decay=0.1, **PAPER_SHAKESPEARE)`. They start at
#: Adam's second moment, rho = 1, and learn from the first step on, gamma without momentum.
PAPER_SHAKESPEARE: dict[str, Any] = {
    **PAPER_GPT2,
    "eps": 1e-8,
    "rho": 1.0,
    "learn": HyperSGD(
        "all",
        lr=2.5e-3,
        momentum={"beta1": 0.5, "beta2": 0.5, "beta3": 0.5, "rho": 0.5, "c": 0.5, "gamma": 0.0},
        clip=10.0,
        start=0,
        bounds=RELEASED_BOUNDS,
    ),
}
