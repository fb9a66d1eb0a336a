"""The arguments of optimizers: explained in docstrings, and forwarded to `HyperOptimizer`."""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mada_optim.rule import DECAY
from mada_optim.rules import RULES

Class = TypeVar("Class", bound=type[Any])

#: The arguments that optimizers have in common; coefficients are explained by their rules.
SHARED = {
    "params": "Parameters, named parameters, or group dicts, as in torch.optim.",
    "lr": 'Learning rate, >= 0, or "auto": computed from the matrix shapes.',
    "eps": "Added to the denominator, >= 0.",
    "weight_decay": "Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.",
    "learn": 'What is learned, and how: names, "all", (), a learner such as `LearnedLR`, or a list of them.',
    "guard": "Keeps the betas in a safe range. None: they are used exactly as passed.",
    "maximize": "Steps along the gradient instead of against it.",
    "engine": '"auto" is the fastest available one; "eager", "cpu", "tiled" or "triton" by name.',
    "state_dtype": "Dtype of the slots. None: fp32, or fp64 for fp64 parameters.",
    "weights": 'Rounding of bf16 and fp16 weights. None: to nearest. "stochastic": at random, right on average.',
    "share_matrices": "DDP's process group; each of its processes orthogonalizes a part of the matrices. None: all.",
    "reduce_group": "Process group over which you have sharded parameters by hand. None otherwise, under FSDP2 too.",
}
RAISES = "Raises:\n    ValueError: A value is not allowed. The message names it, the allowed values and a remedy."


def explained(rule: str, /, **texts: str) -> Callable[[Class], Class]:
    """A class decorator that appends an entry for every argument of the constructor to the docstring.

    The rule explains its coefficients; `texts` explain arguments that other optimizers lack, or use differently.
    """

    def decorate(cls: Class) -> Class:
        arguments = list(inspect.signature(cls).parameters.values())
        known = {**SHARED, **_of_coefficients(rule), **texts}
        entries = [f"{x.name}: {known[x.name]}{_shown(x.default)}" for x in arguments]
        lines = [textwrap.fill(x, 110, initial_indent=" " * 4, subsequent_indent=" " * 8) for x in entries]
        cls.__doc__ = "\n".join([f"{inspect.cleandoc(cls.__doc__ or '')}\n\nArgs:", *lines, "", RAISES])
        return cls

    return decorate


def _of_coefficients(rule: str) -> Mapping[str, str]:
    coefficients = RULES[rule].coefficients
    pair = " ".join(f"{q.name}: {q.meaning}" for q in coefficients if q.name in ("beta1", "beta2"))
    meanings = {q.name: f"{q.meaning} In {q.domain}." for q in coefficients}
    return {**meanings, "betas": f"(beta1, beta2), each in {DECAY}. {pair}"}


def _shown(default: object) -> str:
    is_plain = isinstance(default, float | str) or (isinstance(default, tuple) and default)
    return f" Default: {default!r}." if is_plain else ""


def given(names: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The arguments in a constructor's `locals()`, and these options: a keyword can't be forgotten on its way."""
    return {name: x for name, x in names.items() if name not in ("self", "__class__")} | options
