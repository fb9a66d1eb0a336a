"""Hand-written loops, proven equal to the eager engine, and the choice of one. Without family.cpp there is none."""

from collections.abc import Mapping

import torch

from mada_optim.kernels import build
from mada_optim.kernels.cpu import FAMILY, Kernel, terms
from mada_optim.rules import RULES
from mada_optim.spec import Rule

__all__ = ["Kernel", "choose"]


def choose(requested: str, rule: Rule, form: Rule, fixed: Mapping[str, float], device: torch.device) -> Kernel | None:
    """The loops for `form`, which is `rule` with `fixed` coefficients, on `device`; None where eager is to run.

    Raises:
        ValueError: `requested` is "cpu", and there are no loops for this rule and device, or they can't be compiled.
    """
    known = rule.name in FAMILY and rule.update is RULES[rule.name].update
    flags = terms(rule, form, fixed) if known and device.type == "cpu" else None
    if requested == "eager" or (requested == "auto" and (flags is None or not build.SOURCE.exists())):
        return None
    if flags is None:
        raise ValueError(
            f"engine='cpu': expected a rule of {', '.join(FAMILY)} with parameters on the CPU, "
            f"got {rule.name!r} on {device.type}; leave it at 'auto'"
        )
    try:
        return Kernel(rule, flags, build.load(flags))
    except build.BuildError as error:
        if requested == "cpu":
            raise ValueError(f"engine='cpu': {error}; install a C++ compiler, or leave it at 'auto'") from error
        build.warn(str(error))
        return None
