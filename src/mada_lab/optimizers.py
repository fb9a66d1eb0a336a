"""Optimizers by the name they have on the command line."""

import difflib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

import mada_optim
from mada_lab import controls
from mada_lab.baselines import BASELINES, LR_FACTOR, hidden_matrices
from mada_lab.config import RunConfig
from mada_lab.declarations import defaults, optimizer_keys, set_keys
from mada_lab.errors import ConfigError
from mada_optim import HyperOptimizer, matrices
from mada_optim.checks import learned_names
from mada_optim.rules import RULES
from mada_optim.spec import LR, Rule

C = TypeVar("C", bound=RunConfig)

#: Name on the command line to the class and what it is given: a rule by its name learns nothing unless `learn` says so.
OURS: dict[str, tuple[type[HyperOptimizer], dict[str, Any]]] = {
    **{name: (HyperOptimizer, {"rule": name, "learn": ()}) for name in RULES},
    "mada": (mada_optim.MADA, {}),
    "mada_all": (mada_optim.MADA, {"learn": "all"}),
    "mada_released": (mada_optim.MADA, {"rule": "mada_released", "learn": "all"}),
    "mada_paper": (mada_optim.MADA, {"rule": "mada", **mada_optim.PAPER}),
    "mada_matrix": (mada_optim.MADA, {"rule": "mada_matrix", "learn": "all"}),
    "mada_pointwise": (mada_optim.MADA, {"rule": "mada"}),
    "mada_traced": (controls.Traced, {"learn": "all"}),
    "mada_paced": (controls.Paced, {"learn": ()}),
    "hyperadam": (mada_optim.HyperAdam, {}),
}
#: What each is, in the words of reports; a rule that isn't here is called by its name.
DESCRIPTIONS: dict[str, str] = {
    "sgd": "SGD",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "amsgrad": "AMSGrad",
    "avgrad": "AVGrad",
    "nadam": "NAdam",
    "yogi": "Yogi",
    "adan": "Adan",
    "lion": "Lion",
    "muon": "Muon",
    "mada": "MADA as in the paper",
    "mada_all": "MADA as in the paper",
    "mada_paper": "MADA as in the paper",
    "mada_released": "MADA by the rule of the authors' published code",
    "mada_published": "MADA by the arithmetic of the authors' training scripts",
    "mada_matrix": "MADA with Muon mixed in on hidden matrices",
    "automuon": "Muon on hidden matrices and Adam elsewhere",
    "autoadam": "Adam",
    "mada_pointwise": "Adam",
    "hyperadam": "HyperAdam",
    "mada_traced": "MADA as in the paper, with the size of each step recorded",
    "mada_paced": "MADA's rule, with each step rescaled to the size that it had in another run",
}
NAMES = (*OURS, *BASELINES)
#: Those that need no learning rate, for a network that isn't trained yet.
LR_FREE, FRESH = ("mada", "mada_pointwise"), ("scratch", "resume")
#: Of a learned lr alone.
OF_LR = {"horizon", "hyper_fall", "hyper_rise", "lr_init"}
DECAY = 0.1  # of the others, if none is said; nanoGPT's


def build(model: nn.Module, config: RunConfig) -> Optimizer:
    """The optimizer that `config` names, with weight decay on tensors of 2 or more dimensions only.

    Raises:
        ConfigError: No optimizer has this name, its package isn't installed, or it refuses a value.
    """
    require_known(config.optimizer)
    require_had(config, set_keys(config))
    try:
        if config.optimizer in BASELINES:
            numbers = {"betas": (_or(config.beta1, 0.9), _or(config.beta2, 0.999)), "eps": _or(config.eps, 1e-8)}
            numbers["lr"] = config.learning_rate
            return BASELINES[config.optimizer].make(_baseline_groups(model, config), numbers)
        optimizer = _ours(decay_groups(model, weight_decay(config)), config)
        _require_matrices(optimizer, config)
        if isinstance(optimizer, controls.Paced) and config.pace_from is not None:
            optimizer.follow(Path(config.pace_from))
        return optimizer
    except ValueError as error:
        raise ConfigError(f"optimizer {config.optimizer}, in the configuration: {error}") from error


def require_known(name: str) -> None:
    """Raises ConfigError, with the nearest name, unless an optimizer is called `name`."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        remedy = f"did you mean {near[0]}?" if near else "choose one of these"
        raise ConfigError(f"optimizer, in key optimizer: expected one of {', '.join(NAMES)}, got {name}; {remedy}")


def require_had(config: RunConfig, given: Iterable[str]) -> None:
    """Raises ConfigError if a key in `given` has a value, and no effect on the optimizer of `config`."""
    keys = without_effect(config, given)
    if keys:
        others = f", and {', '.join(keys[1:])} too" if keys[1:] else ""
        raise ConfigError(f"optimizer {config.optimizer}, in key {keys[0]}: {idle(config)[keys[0]]}{others}")


def without_effect(config: RunConfig, given: Iterable[str] | None = None) -> list[str]:
    """The keys in `given`, or those with another value than the default, that the optimizer of `config` hasn't."""
    given = set_keys(config) if given is None else given
    return sorted(key for key in {*given} & idle(config).keys() if getattr(config, key) is not None)


def without_idle(config: C) -> C:
    """`config`, with the keys at their defaults that have no effect on its optimizer."""
    usual = defaults(type(config))
    return replace(config, **{key: usual[key] for key in without_effect(config)})


def idle(config: RunConfig) -> dict[str, str]:
    """The keys of optimizers that have no effect on the one in `config`, each with what to say of it."""
    had = _had(config)
    expected = f"expected one of the keys that it has ({', '.join(sorted(had)) or 'none'})"
    learner = "leave it out" if config.optimizer in BASELINES else "leave it out, or name in learn what it is for"
    return {
        key: f"{expected}, got {key}={getattr(config, key)}; {learner if _is_of_learner(key) else 'leave it out'}"
        for key in optimizer_keys(type(config))
        if key not in had
    }


def _is_of_learner(key: str) -> bool:
    return key.startswith("hyper_") or key in OF_LR


def replaced(config: RunConfig) -> tuple[str, ...]:
    """The keys that `coefficients_from` gives in the place of the configuration."""
    taken_over = config.coefficients_from is not None and config.optimizer in OURS
    return _rule(config).coefficient_names() if taken_over else ()


def _had(config: RunConfig) -> set[str]:
    """The keys that the optimizer has beside those that all have. Raises ConfigError: `learn` names another's."""
    if config.optimizer in BASELINES:
        return set(BASELINES[config.optimizer].keys)
    cls, _ = OURS[config.optimizer]
    rule, keys = _rule(config), {"learn", "state_dtype", "coefficients_from"}
    keys |= {*rule.coefficient_names(), *({"eps"} & rule.hyper_parameters.keys())}
    keys |= {"matrix_lr_ratio"} if rule.matrix_weight is not None else set()
    keys |= {"pace_from"} if issubclass(cls, controls.Paced) else set()
    learned = learned_coefficients(config)
    keys |= _of_learner(config) if learned else set()
    keys -= set() if LR.name in learned else OF_LR
    if not config.momentum and "momentum" not in learned:
        keys -= {"nesterov"}
    return keys


def _of_learner(config: RunConfig) -> set[str]:
    keys = {key for key in optimizer_keys(type(config)) if _is_of_learner(key)}
    return keys - {"hyper_momentum"} if config.hyper_optimizer in ("negated", "shuffled") else keys


def learned_coefficients(config: RunConfig) -> tuple[str, ...]:
    """What is learned, of an optimizer of this library. Raises ConfigError for a name that is no coefficient."""
    cls, options = OURS[config.optimizer]
    learn = options.get("learn", cls.preset.learn) if config.learn is None else _learned(config.learn)
    if config.learn is None and config.coefficients_from is not None:
        learn = ()
    try:
        return learned_names(_rule(config), learn)
    except ValueError as error:
        raise ConfigError(f"optimizer {config.optimizer}, in key learn: {error}") from error


def _require_matrices(optimizer: HyperOptimizer, config: RunConfig) -> None:
    """Refuses the keys of hidden matrices for a network that has none."""
    rule = optimizer.rule
    if rule.matrix_weight is None or any(any(matrices.flags(rule, group)) for group in optimizer.param_groups):
        return
    for key in (rule.matrix_weight, "matrix_lr_ratio"):
        if getattr(config, key) is not None:
            raise ValueError(f"{key}={getattr(config, key)}: expected a network with hidden matrices; leave it out")


def weight_decay(config: RunConfig) -> float:
    """What `config` says, or what its optimizer's default is: those that need no learning rate have their own."""
    own = config.optimizer in LR_FREE and config.learn is None
    return _or(config.weight_decay, mada_optim.LEARNED_LR["weight_decay"] if own else DECAY)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and embeddings decay; biases and gains don't.

    Those of `param_groups` put together as checkpoints have them; hidden matrices are told by names, which give the
    same for the application's networks.
    """
    weights = mada_optim.param_groups(model).weights
    groups = [
        {
            "params": [(x.name, x.parameter) for x in weights if x.decays == decays],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return [group for group in groups if group["params"]]


def _baseline_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """`decay_groups`; for torch_muon, hidden matrices apart from the others, with their own learning rate."""
    groups = decay_groups(model, weight_decay(config))
    if config.optimizer != "torch_muon":
        return groups
    matrices, rate = hidden_matrices(model), _or(config.matrix_lr, config.learning_rate)
    factor = {LR_FACTOR: rate / config.learning_rate, "lr": rate}
    parts = [
        {**group, **keys, "params": [x for x in group["params"] if (x[1] in matrices) == inside]}
        for inside, keys in ((True, factor), (False, {}))
        for group in groups
    ]
    return [part for part in parts if part["params"]]


def _ours(groups: list[dict[str, Any]], config: RunConfig) -> HyperOptimizer:
    """One of this library's, its hyper learning rates multiplied, its hypergradients falsified if that is asked for.

    An lr that starts elsewhere than at learning_rate is LR_FACTOR of its groups, so that the schedule applies to it.
    """
    optimizer = _made(groups, config)
    for group in optimizer.param_groups:
        if group["lr"] != config.learning_rate:
            group[LR_FACTOR] = group["lr"] / config.learning_rate
    return optimizer


def _made(groups: list[dict[str, Any]], config: RunConfig) -> HyperOptimizer:
    cls, options = OURS[config.optimizer]
    options = {**_start(config), **options, **_keywords(config)}
    optimizer = cls(groups, lr=config.learning_rate, **options)
    rates = [config.hyper_lr_factor * x for x in optimizer.learner.lr.tolist()]
    if config.hyper_optimizer in ("negated", "shuffled"):
        options["hyper_optimizer"] = controls.factory(config.hyper_optimizer, rates)
    elif config.hyper_lr_factor != 1.0:
        options["hyper_lr"] = dict(zip(optimizer.learned, rates, strict=True))
    else:
        return optimizer
    return cls(groups, lr=config.learning_rate, **options)


def _start(config: RunConfig) -> dict[str, Any]:
    """Where MADA's learned lr starts, unless it's said: from fresh weights where shapes say, else at learning_rate."""
    free = config.optimizer in LR_FREE and config.learn is None and config.init_from in FRESH
    return {"lr_init": "shape"} if free else {}


def _keywords(config: RunConfig) -> dict[str, Any]:
    rule = _rule(config)
    chosen = {q: getattr(config, q) for q in rule.coefficient_names() if getattr(config, q) is not None}
    if "beta1" in chosen or "beta2" in chosen:
        default = {q.name: q.default for q in rule.coefficients}
        chosen["betas"] = tuple(chosen.pop(q, default[q]) for q in ("beta1", "beta2"))
    if config.eps is not None:
        chosen["eps"] = config.eps
    if config.learn is not None:
        chosen["learn"] = _learned(config.learn)
    if config.state_dtype != "float32":
        chosen["state_dtype"] = getattr(torch, config.state_dtype)
    if config.hyper_optimizer == "adam":
        lr, betas = config.hyper_lr_factor * _or(config.hyper_lr, 1e-3), (config.hyper_momentum, 0.999)
        chosen["hyper_optimizer"] = lambda leaves: torch.optim.Adam(leaves, lr=lr, betas=betas)
    set_ = {key: getattr(config, key) for key in _passed_on(config) if getattr(config, key) is not None}
    return {**set_, **chosen}


def _passed_on(config: RunConfig) -> set[str]:
    """The keys of what is learned that are keywords of the optimizer, under the same names."""
    ours = {"hyper_lr_factor", "hyper_optimizer"}
    return {key for key in _had(config) if _is_of_learner(key) or key == "matrix_lr_ratio"} - ours


def _learned(names: str) -> str | tuple[str, ...]:
    if names == "none":
        return ()
    return names if names == "all" else tuple(name.strip() for name in names.split(","))


def _rule(config: RunConfig) -> Rule:
    cls, options = OURS[config.optimizer]
    return RULES[options.get("rule", cls.preset.rule_for(options.get("learn", config.learn)))]


def _or(x: float | None, default: float) -> float:
    return default if x is None else x
