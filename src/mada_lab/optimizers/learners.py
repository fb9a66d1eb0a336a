"""The learners of a configuration's coefficients: each key sets the options that it declares."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_lab.config import by_coefficient
from mada_lab.config.declarations import declarations
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.optimizers import clamps
from mada_lab.optimizers.controls import Negated, NegatedLR, Shuffled
from mada_optim import HyperSGD, HyperTorch, LearnedLR, Learner, checks
from mada_optim.rule import LR, Rule

Make = Callable[..., Learner]
Makes = list[tuple[Make, tuple[str, ...]]]
"""What makes each learner, and the coefficients that it learns."""

FACTOR = "hyper_lr_factor"


def adam(
    *names: str, lr: float | Mapping[str, float] = 1e-3, momentum: float | Mapping[str, float] = 0.0, **options: Any
) -> HyperTorch:
    """The learner is torch's Adam: a learning rate and a beta1 for each coefficient, and a beta2 of .999."""

    def make(leaves: list[Tensor]) -> Optimizer:
        groups = [
            {"params": [x], "lr": _of(lr, name, 1e-3), "betas": (_of(momentum, name, 0.0), 0.999)}
            for name, x in zip(names, leaves, strict=True)
        ]
        return torch.optim.Adam(groups)

    return HyperTorch(*names, make=make, **options)


#: What moves the coefficients, by the value of hyper_optimizer.
MAKES: dict[str, Make] = {"sgd": HyperSGD, "adam": adam, "negated": Negated, "shuffled": Shuffled}
#: The same for a learned lr, where it isn't LearnedLR.
OF_LR: dict[str, Make] = {"negated": NegatedLR}


def makes(config: RunConfig, names: tuple[str, ...], usual: object) -> Makes:
    """What makes each learner of the coefficients in `names`; `usual` is the optimizer's default for `learn`.

    lr is learned by LearnedLR if that is the default, all else by the choice of hyper_optimizer.
    """
    alone = tuple(name for name in names if name == LR.name and isinstance(usual, LearnedLR))
    rest = tuple(name for name in names if name not in alone)
    chosen = OF_LR.get(config.hyper_optimizer, LearnedLR), MAKES[config.hyper_optimizer]
    return [(make, part) for make, part in zip(chosen, (alone, rest), strict=True) if part]


def keys_of(config: RunConfig, makes: Makes) -> set[str]:
    """The keys that have an effect on these learners."""
    if not makes:
        return set()
    options = set().union(*(_options(make) for make, _ in makes))
    keys = {key for key, x in declarations(type(config)).items() if options.intersection(x.of_learner)}
    if any(make is not LearnedLR for make, _ in makes):
        keys.add("hyper_optimizer")
    if any(name != LR.name for _, names in makes for name in names):
        keys |= {"clamps"} if config.clamps is None else {"clamps", "clamp_interval"}
    return keys | {"hyper_observe"}


def learners(config: RunConfig, rule: Rule, makes: Makes) -> list[Learner]:
    """The learners. Raises ConfigError for a key of a coefficient that isn't learned, or a value that is refused."""
    learned = tuple(name for _, names in makes for name in names)
    for key in declarations(type(config)):
        for name in by_coefficient.values_of(config, key).keys() - learned:
            refusal = f"expected coefficients that are learned ({', '.join(learned)}), got {name}"
            raise ConfigError(f"optimizer {config.optimizer}, in key {key}: {refusal}; leave it out, or learn it too")
    if config.clamps is not None:
        bounds = by_coefficient.values_of(config, "bounds")
        clamps.require_inside(config, checks.intervals(rule, bounds, learned))
    return [_made(make, names, config, rule) for make, names in makes]


def _made(make: Make, names: tuple[str, ...], config: RunConfig, rule: Rule) -> Learner:
    known, options, keys = _options(make), {}, []
    for key, declared in declarations(type(config)).items():
        for option in known.intersection(declared.of_learner):
            if key != FACTOR and (value := _value(config, key, names)) is not None:
                options[option] = value
                keys.append(f"{key}={getattr(config, key)}")
    if config.hyper_lr_factor != 1.0:
        option = "rate" if "rate" in known else "lr"
        options[option] = _multiplied(make, option, options.get(option), names, config.hyper_lr_factor, rule)
        keys.append(f"{FACTOR}={config.hyper_lr_factor}")
    try:
        return make(**_numbers(options)) if _is_of_lr(make) else make(*names, **options)
    except ValueError as error:
        raise ConfigError(f"optimizer {config.optimizer}, in {', '.join(keys)}: {error}") from error


def _value(config: RunConfig, key: str, names: tuple[str, ...]) -> Any:
    """The value of a key for these coefficients; None if it has none for them."""
    named = by_coefficient.values_of(config, key)
    return {name: x for name, x in named.items() if name in names} or None if named else getattr(config, key)


def _numbers(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a learner of lr alone: numbers in the place of dicts, but for bounds."""
    return {option: x[LR.name] if isinstance(x, dict) and option != "bounds" else x for option, x in options.items()}


def _multiplied(
    make: Make, option: str, given: Any, names: tuple[str, ...], factor: float, rule: Rule
) -> dict[str, float]:
    """The learning rates times `factor`: those given, or else the learner's, or else those that the rule declares."""
    usual = inspect.signature(make).parameters[option].default
    declared = {q.name: q.hyper_lr for q in (*rule.coefficients, LR)}
    return {name: factor * _of(given, name, _of(usual, name, declared[name])) for name in names}


def _of(given: float | Mapping[str, float] | None, name: str, usual: float) -> float:
    if given is None:
        return usual
    return given.get(name, usual) if isinstance(given, Mapping) else given


def _is_of_lr(make: Make) -> bool:
    return isinstance(make, type) and issubclass(make, LearnedLR)


def _options(make: Make) -> set[str]:
    """The options that a learner has."""
    return {*inspect.signature(make).parameters, *(inspect.signature(HyperTorch).parameters if make is adam else ())}
