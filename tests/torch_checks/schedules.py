"""Every learning-rate scheduler of torch, set up so that a handful of steps shows what it does to two groups."""

from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import SWALR

#: By name: from an optimizer of two groups to a scheduler.
SCHEDULERS = {
    "LambdaLR": lambda opt: LambdaLR(opt, [lambda t: 0.9**t, lambda t: 1 / (1 + t)]),
    "MultiplicativeLR": lambda opt: MultiplicativeLR(opt, lambda t: 0.8),
    "StepLR": lambda opt: StepLR(opt, step_size=2, gamma=0.5),
    "MultiStepLR": lambda opt: MultiStepLR(opt, milestones=[1, 4], gamma=0.5),
    "ConstantLR": lambda opt: ConstantLR(opt, factor=0.5, total_iters=3),
    "LinearLR": lambda opt: LinearLR(opt, start_factor=0.2, total_iters=4),
    "ExponentialLR": lambda opt: ExponentialLR(opt, gamma=0.9),
    "PolynomialLR": lambda opt: PolynomialLR(opt, total_iters=5, power=2.0),
    "CosineAnnealingLR": lambda opt: CosineAnnealingLR(opt, T_max=4, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda opt: CosineAnnealingWarmRestarts(opt, T_0=3),
    "ReduceLROnPlateau": lambda opt: ReduceLROnPlateau(opt, patience=1, factor=0.5),
    "CyclicLR": lambda opt: CyclicLR(opt, 1e-3, 1e-2, step_size_up=2, cycle_momentum=False),
    "OneCycleLR": lambda opt: OneCycleLR(opt, [1e-2, 3e-2], total_steps=8, cycle_momentum=False),
    "SequentialLR": lambda opt: SequentialLR(opt, [ConstantLR(opt, 0.1, 2), ExponentialLR(opt, 0.9)], milestones=[2]),
    "ChainedScheduler": lambda opt: ChainedScheduler([LinearLR(opt, 0.4, total_iters=3), StepLR(opt, 2, 0.5)], opt),
    "SWALR": lambda opt: SWALR(opt, [5e-3, 1e-3], anneal_epochs=4),
}

#: Names of torch.optim.lr_scheduler that are no scheduler by themselves.
BASES = {"LRScheduler"}

#: Several at once on one optimizer, as a user may have them.
COMPOUNDS = (
    [lambda opt: StepLR(opt, step_size=4, gamma=0.9), ReduceLROnPlateau],
    [lambda opt: ExponentialLR(opt, gamma=0.99), lambda opt: LinearLR(opt, 0.4, total_iters=4)],
    [lambda opt: CosineAnnealingLR(opt, T_max=20), lambda opt: ConstantLR(opt, 0.4, total_iters=4), ReduceLROnPlateau],
)


def advance(scheduler, metric):
    """One step of any scheduler; the one that watches a metric is told it."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(metric)
    else:
        scheduler.step()
