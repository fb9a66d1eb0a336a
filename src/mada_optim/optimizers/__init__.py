"""The optimizers, each a class with its own arguments and defaults."""

from mada_optim.optimizers.adam import Adam, Adan, AMSGrad, AVGrad, HyperAdam, NAdam, Yogi
from mada_optim.optimizers.auto import AutoAdam, AutoMuon
from mada_optim.optimizers.classical import SGD, AdaGrad, Lion, Muon, NorMuon, RMSprop
from mada_optim.optimizers.mada import MADA

__all__ = [
    "MADA",
    "SGD",
    "AMSGrad",
    "AVGrad",
    "AdaGrad",
    "Adam",
    "Adan",
    "AutoAdam",
    "AutoMuon",
    "HyperAdam",
    "Lion",
    "Muon",
    "NAdam",
    "NorMuon",
    "RMSprop",
    "Yogi",
]
