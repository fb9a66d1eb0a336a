"""What learns the coefficients, from the keys of a configuration: each key sets the options that it declares."""

import inspect
from collections.abc import Callable, Iterable, Mapping
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

FACTOR = "hyper_lr_factor"
#: The keys that decide what the learner is, what it is given, and what is done to what it has learned.
CHOICES = ("hyper_optimizer", "hyper_observe", "clamps", "clamp_interval")


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
#: The same of a learned lr, where it isn't LearnedLR.
OF_LR: dict[str, Make] = {"negated": NegatedLR}


def makes(config: RunConfig, names: tuple[str, ...], usual: object) -> list[tuple[Make, tuple[str, ...]]]:
    """What makes each learner of the coefficients in `names`, and those that it learns, where `usual` is the default.

    lr is learned by LearnedLR if that is the optimizer's default, all else by what hyper_optimizer names.
    """
    own = tuple(name for name in names if name == LR.name and isinstance(usual, LearnedLR))
    rest = tuple(name for name in names if name not in own)
    chosen = OF_LR.get(config.hyper_optimizer, LearnedLR), MAKES[config.hyper_optimizer]
    return [(make, part) for make, part in zip(chosen, (own, rest), strict=True) if part]


def keys_of(config: RunConfig, found: Iterable[tuple[Make, tuple[str, ...]]]) -> set[str]:
    """The keys that have an effect on these learners."""
    found = list(found)
    options = [_options(make) for make, _ in found]
    if not options:
        return set()
    declared = declarations(type(config)).items()
    keys = {key for key, x in declared if any({*x.of_learner} & known for known in options)}
    chosen = {"hyper_optimizer"} if any(make is not LearnedLR for make, _ in found) else set()
    clamped = {"clamps"} if any(name != LR.name for _, names in found for name in names) else set()
    clamped |= {"clamp_interval"} if clamped and config.clamps is not None else set()
    return keys | {"hyper_observe"} | chosen | clamped


def learners(config: RunConfig, rule: Rule, found: Iterable[tuple[Make, tuple[str, ...]]]) -> list[Learner]:
    """The learners. Raises ConfigError for a number by the name of a coefficient that isn't learned; ValueError."""
    found = list(found)
    learned = [name for _, names in found for name in names]
    _require_learned(config, learned)
    _require_clamps(config, rule, tuple(learned))
    return [_made(make, names, config, rule) for make, names in found]


def _made(make: Make, names: tuple[str, ...], config: RunConfig, rule: Rule) -> Learner:
    options: dict[str, Any] = {}
    known = _options(make)
    for key, declared in declarations(type(config)).items():
        for option in {*declared.of_learner} & known if key != FACTOR else ():
            value = _value(config, key, names)
            if value is not None:
                options[option] = value
    if config.hyper_lr_factor != 1.0:
        option = "rate" if "rate" in known else "lr"
        options[option] = _multiplied(make, option, options.get(option), names, config.hyper_lr_factor, rule)
    if not _is_of_lr(make):
        return make(*names, **options)
    own = {option: x[LR.name] for option, x in options.items() if option != "bounds" and isinstance(x, dict)}
    return make(**{**options, **own})  # numbers, as there is one coefficient


def _value(config: RunConfig, key: str, names: tuple[str, ...]) -> Any:
    """What a key says of these coefficients; None if it says nothing."""
    value, read = getattr(config, key), declarations(type(config))[key].by_coefficient
    if not (read and isinstance(value, str)):
        return value
    return {name: x for name, x in by_coefficient.READ[read](value).items() if name in names} or None


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


def _require_learned(config: RunConfig, learned: list[str]) -> None:
    for key, declared in declarations(type(config)).items():
        value = getattr(config, key)
        if declared.by_coefficient and isinstance(value, str):
            strange = [name for name in by_coefficient.READ[declared.by_coefficient](value) if name not in learned]
            if strange:
                what = f"expected coefficients that are learned ({', '.join(learned)}), got {strange[0]}"
                raise ConfigError(f"optimizer {config.optimizer}, in key {key}: {what}; leave it out, or learn it too")


def _require_clamps(config: RunConfig, rule: Rule, learned: tuple[str, ...]) -> None:
    if config.clamps is not None:
        bounds = {} if config.bounds is None else by_coefficient.intervals(config.bounds)
        clamps.require_inside(config, checks.intervals(rule, bounds, learned))


def _is_of_lr(make: Make) -> bool:
    return isinstance(make, type) and issubclass(make, LearnedLR)


def _options(make: Make) -> set[str]:
    """The options that a learner has."""
    own = inspect.signature(make).parameters
    return {*own} | ({*inspect.signature(HyperTorch).parameters} if make is adam else set())
