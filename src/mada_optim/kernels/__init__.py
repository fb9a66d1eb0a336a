"""Hand-written loops, proven equal to the eager engine, and the choice of one. Without family.cpp there is none."""

import torch

from mada_optim.kernels import build
from mada_optim.kernels.cpu import FAMILY, Kernel
from mada_optim.rules import RULES
from mada_optim.spec import Rule


def choose(requested: str, rule: Rule, device: torch.device) -> Kernel | None:
    """The loops for `rule` on `device`; None where the eager engine is to run.

    Raises:
        ValueError: `requested` is "cpu", and there are no loops for this rule and device, or they can't be compiled.
    """
    known = rule.name in FAMILY and rule.update is RULES[rule.name].update
    fits = known and device.type == "cpu"
    if requested == "eager" or (requested == "auto" and not (fits and build.SOURCE.exists())):
        return None
    if not fits:
        raise ValueError(
            f"engine='cpu': expected a rule of {', '.join(FAMILY)} with parameters on the CPU, "
            f"got {rule.name!r} on {device.type}; leave it at 'auto'"
        )
    try:
        return Kernel(rule, build.load())
    except build.BuildError as error:
        if requested == "cpu":
            raise ValueError(f"engine='cpu': {error}; install a C++ compiler, or leave it at 'auto'") from error
        build.warn(str(error))
        return None
