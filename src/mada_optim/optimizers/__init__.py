"""The optimizers by their names, a file for each."""

from mada_optim.optimizers.adagrad import AdaGrad
from mada_optim.optimizers.adam import Adam
from mada_optim.optimizers.adan import Adan
from mada_optim.optimizers.amsgrad import AMSGrad
from mada_optim.optimizers.auto_adam import AutoAdam
from mada_optim.optimizers.auto_muon import AutoMuon
from mada_optim.optimizers.avgrad import AVGrad
from mada_optim.optimizers.hyper_adam import HyperAdam
from mada_optim.optimizers.lion import Lion
from mada_optim.optimizers.mada import MADA
from mada_optim.optimizers.muon import Muon
from mada_optim.optimizers.nadam import NAdam
from mada_optim.optimizers.rmsprop import RMSprop
from mada_optim.optimizers.sgd import SGD
from mada_optim.optimizers.yogi import Yogi

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
    "RMSprop",
    "Yogi",
]
