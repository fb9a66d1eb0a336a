"""PyTorch optimizers that learn their own coefficients during training.

    from mada_optim import MADA, AutoMuon, param_groups
    opt = AutoMuon(param_groups(model))         # learns the learning rate, so you need not sweep it
    opt = MADA(model.parameters(), lr=1e-3)     # the optimizer of the paper: learns six coefficients

They are ordinary `torch.optim.Optimizer`s: no wrapper, no `create_graph`, no modes.
"""

from mada_optim import optimizers
from mada_optim.beta_guard import Guard
from mada_optim.grouping.param_groups import ParamGroups, param_groups
from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.hyper_sgd import HyperSGD
from mada_optim.learning.hyper_torch import HyperTorch
from mada_optim.learning.learned_lr import LearnedLR
from mada_optim.learning.learner import Learner, StepInfo
from mada_optim.optimizers import *  # noqa: F403
from mada_optim.optimizers.paper import PAPER_GPT2, PAPER_SHAKESPEARE

__version__ = "0.1.0"

__all__ = [
    "PAPER_GPT2",
    "PAPER_SHAKESPEARE",
    "Guard",
    "HyperOptimizer",
    "HyperSGD",
    "HyperTorch",
    "LearnedLR",
    "Learner",
    "ParamGroups",
    "StepInfo",
    "param_groups",
]
__all__ += optimizers.__all__
