"""Optimizers that learn their own coefficients while a network trains.

    from mada_optim import MADA, param_groups
    opt = MADA(param_groups(model))

An ordinary `torch.optim.Optimizer`: no wrapper, no `create_graph`, no modes.
"""

from mada_optim.guard import Guard
from mada_optim.optim import HyperOptimizer
from mada_optim.param_groups import ParamGroups, param_groups
from mada_optim.presets import (
    LEARNED_LR,
    MADA,
    PAPER,
    PAPER_SHAKESPEARE,
    SGD,
    AdaGrad,
    Adam,
    Adan,
    AMSGrad,
    AVGrad,
    HyperAdam,
    Lion,
    NAdam,
    RMSprop,
    Yogi,
)

__version__ = "0.1.0"

__all__ = [
    "LEARNED_LR",
    "MADA",
    "PAPER",
    "PAPER_SHAKESPEARE",
    "SGD",
    "AMSGrad",
    "AVGrad",
    "AdaGrad",
    "Adam",
    "Adan",
    "Guard",
    "HyperAdam",
    "HyperOptimizer",
    "Lion",
    "NAdam",
    "ParamGroups",
    "RMSprop",
    "Yogi",
    "param_groups",
]
