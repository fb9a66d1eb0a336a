"""Optimizers by the name they have on the command line."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

import mada_optim
from mada_lab.compute import world
from mada_lab.config.declarations import Topic, declarations, defaults, optimizer_keys, set_keys
from mada_lab.config.keys import FRESH, RunConfig
from mada_lab.errors import ConfigError
from mada_lab.optimizers import controls, learners
from mada_lab.optimizers.baselines import BASELINES, LR_FACTOR, Baseline, apart, hidden_matrices
from mada_optim import HyperOptimizer, Learner, optimizers
from mada_optim.checks import did_you_mean, has_matrices, learned_names
from mada_optim.matrices import hidden_matrices as matrices
from mada_optim.rule import Rule
from mada_optim.rules import RULES

C = TypeVar("C", bound=RunConfig)

AUTO = "auto"  # a learning rate that is computed from the shapes of the network's matrices


@dataclass(frozen=True)
class Ours:
    """The meaning of a name on the command line."""

    make: type[HyperOptimizer]
    description: str  #: what it is, in the words of reports
    rule: str = "mada"  #: the name of its rule
    #: keywords that the name stands for, in the place of the class's defaults
    options: Mapping[str, Any] = field(default_factory=dict)

    def default(self, keyword: str) -> Any:
        """The value of `keyword` if it isn't given; None if the class has no such keyword."""
        parameter = inspect.signature(self.make.__init__).parameters.get(keyword)
        return self.options.get(keyword, None if parameter is None else parameter.default)

    def made(self, groups: list[dict[str, Any]], keywords: Mapping[str, Any]) -> HyperOptimizer:
        """The optimizer. A coefficient that its class has no argument for yet is one of HyperOptimizer's options."""
        names = inspect.signature(self.make.__init__).parameters
        if keywords.keys() <= names.keys():
            return self.make(groups, **{**({"rule": self.rule} if "rule" in names else {}), **self.options, **keywords})
        defaults = {name: x.default for name, x in names.items() if x.default is not x.empty}
        return HyperOptimizer(groups, **{**defaults, "rule": self.rule, **self.options, **keywords})


CLASSES = {name.lower(): getattr(optimizers, name) for name in optimizers.__all__}
MATRIX = {"learn": "all", "betas": (0.9, 0.95), "omega": 1.0}
OURS: dict[str, Ours] = {
    **{name: Ours(HyperOptimizer, f"the rule {name}", name) for name in RULES},
    **{name: Ours(cls, cls.__name__, name) for name, cls in CLASSES.items() if name in RULES},
    "automuon": Ours(optimizers.AutoMuon, "Muon on hidden matrices and Adam elsewhere", "mada_matrix"),
    "autoadam": Ours(optimizers.AutoAdam, "Adam"),
    "hyperadam": Ours(optimizers.HyperAdam, "HyperAdam", "adam"),
    "mada": Ours(optimizers.MADA, "MADA as in the paper"),
    "mada_matrix": Ours(HyperOptimizer, "MADA with Muon mixed in on hidden matrices", "mada_matrix", MATRIX),
    "mada_released": Ours(optimizers.MADA, "MADA by the rule of the authors' published code", "mada_released"),
    "mada_published": Ours(
        optimizers.MADA, "MADA by the arithmetic of the authors' training scripts", "mada_published"
    ),
    "mada_traced": Ours(controls.Traced, "MADA as in the paper, with the size of each step recorded"),
    "mada_paced": Ours(
        controls.Paced,
        "MADA's rule, with each step rescaled to the size that it had in another run",
        options={"learn": ()},
    ),
}
KNOWN: dict[str, Ours | Baseline] = {**OURS, **BASELINES}
NAMES = tuple(KNOWN)
#: Former names, and those of today.
RENAMED = {"mada_all": "mada", "mada_paper": "mada", "mada_pointwise": "autoadam"}
#: Those that learn their learning rate.
LR_FREE = tuple(name for name, ours in OURS.items() if ours.default("lr") == AUTO)
BETAS = ("beta1", "beta2")
DECAY = 0.1  # of those whose class has none; nanoGPT's


def build(model: nn.Module, config: RunConfig) -> Optimizer:
    """The optimizer that `config` names, with weight decay on tensors of 2 or more dimensions only.

    Raises:
        ConfigError: No optimizer has this name, its package isn't installed, or it refuses a value.
    """
    require_known(config.optimizer)
    require_had(config, set_keys(config))
    require_start(config)
    require_guarded(config)
    try:
        if config.optimizer in BASELINES:
            return BASELINES[config.optimizer].make(_baseline_groups(model, config), _numbers(config))
        ours = OURS[config.optimizer]
        groups = decay_groups(model, weight_decay(config))
        optimizer = ours.made(groups, _keywords(config))
        _require_matrices(optimizer, config)
        if isinstance(optimizer, controls.Paced) and config.pace_from is not None:
            optimizer.follow(Path(config.pace_from))
        return optimizer
    except ValueError as error:
        raise ConfigError(f"optimizer {config.optimizer}, in the configuration: {error}") from error


def peak(optimizer: Optimizer) -> float:
    """The peak of the schedule of a fresh optimizer: the learning rate that stands in its groups."""
    usual = next((group for group in optimizer.param_groups if LR_FACTOR not in group), optimizer.param_groups[0])
    return float(usual["lr"])


def learning_rate(config: RunConfig) -> float | str:
    """The peak learning rate of `config`, or the default of its optimizer; maybe "auto"."""
    usual: float | str = KNOWN[config.optimizer].default("lr")
    return usual if config.learning_rate is None else config.learning_rate


def require_start(config: RunConfig) -> None:
    """Raises ConfigError if a learning rate is to be computed for a baseline, or for trained weights."""
    if learning_rate(config) != AUTO:
        return
    expected = "configuration, key learning_rate: expected a number for"
    if config.optimizer in BASELINES:
        usual = BASELINES[config.optimizer].lr
        raise ConfigError(f"{expected} {config.optimizer}, got {AUTO}; leave it out for {usual:g}")
    if config.init_from not in FRESH:
        raise ConfigError(
            f"{expected} weights that are trained already (init_from={config.init_from}), got {AUTO}, which is for "
            "fresh ones; choose it, --learning_rate=1e-4, say"
        )


def require_guarded(config: RunConfig) -> None:
    """Raises ConfigError if beta2 is lower than the guard of the optimizer's betas allows."""
    guard = KNOWN[config.optimizer].default("guard")
    if guard is not None and config.beta2 is not None and config.beta2 < guard.least_beta2:
        raise ConfigError(
            f"optimizer {config.optimizer}, in key beta2: expected at least {guard.least_beta2:g}, the least that its "
            f"guard allows, got {config.beta2:g}; choose a larger one, or an optimizer without a guard, such as mada"
        )


def require_known(name: str) -> None:
    """Raises ConfigError, with the nearest name, unless an optimizer is called `name`."""
    if name not in NAMES:
        remedy = did_you_mean(RENAMED.get(name, name), NAMES, "choose one of these")
        raise ConfigError(f"optimizer, in key optimizer: expected one of {', '.join(NAMES)}, got {name}; {remedy}")


def require_had(config: RunConfig, given: Iterable[str]) -> None:
    """Raises ConfigError if a key in `given` has a value, and no effect on the optimizer of `config`."""
    keys = without_effect(config, given)
    if keys:
        others = f", and {', '.join(keys[1:])} too" if keys[1:] else ""
        cleared = " ".join(f"--{key}=None" for key in keys if defaults(type(config))[key] is None)
        of_file = f"; what a file gives is left out by {cleared}" if cleared else ""
        raise ConfigError(f"optimizer {config.optimizer}, in key {keys[0]}: {idle(config)[keys[0]]}{others}{of_file}")


def without_effect(config: RunConfig, given: Iterable[str] | None = None) -> list[str]:
    """The keys in `given`, or those not at their default, that have a value and no effect on the optimizer."""
    given = set_keys(config) if given is None else given
    return sorted(key for key in {*given} & idle(config).keys() if getattr(config, key) is not None)


def without_idle(config: C) -> C:
    """`config`, with the keys at their defaults that have no effect on its optimizer."""
    usual = defaults(type(config))
    return replace(config, **{key: usual[key] for key in without_effect(config)})


def idle(config: RunConfig) -> dict[str, str]:
    """The keys of optimizers that have no effect on that of `config`, each with its refusal."""
    declared, had = declarations(type(config)), _had(config)
    expected = f"expected one of the keys that it has ({', '.join(sorted(had)) or 'none'})"
    learned = Topic.LEARNING if config.optimizer in OURS else None
    return {
        key: f"{expected}, got {key}={getattr(config, key)}; leave it out"
        + (", or name in learn what it is for" if declared[key].topic is learned else "")
        for key in optimizer_keys(type(config))
        if key not in had
    }


def replaced(config: RunConfig) -> tuple[str, ...]:
    """The keys that `coefficients_from` gives in the place of the configuration."""
    is_given = config.coefficients_from is not None and config.optimizer in OURS
    return _rule(config).coefficient_names() if is_given else ()


def _had(config: RunConfig) -> set[str]:
    """The keys that have an effect on the optimizer, beside those of all. Raises as `learned_coefficients`."""
    if config.optimizer in BASELINES:
        return set(BASELINES[config.optimizer].keys)
    ours, rule = OURS[config.optimizer], _rule(config)
    keys = {"learn", "state_dtype", "coefficients_from", *rule.coefficient_names()}
    keys |= {"eps"} & rule.hyper_parameters.keys()
    keys |= {"matrix_lr_ratio"} if rule.matrix_weight is not None else set()
    keys |= {"share_matrices"} if has_matrices(rule) else set()
    keys |= {"pace_from"} if issubclass(ours.make, controls.Paced) else set()
    keys |= learners.keys_of(config, _makes(config))
    if not config.momentum and "momentum" not in learned_coefficients(config):
        keys -= {"nesterov"}
    return keys


def learned_coefficients(config: RunConfig) -> tuple[str, ...]:
    """The coefficients that an optimizer of this library learns. Raises ConfigError if `learn` names another."""
    usual = OURS[config.optimizer].default("learn")
    names = usual.names if isinstance(usual, Learner) else usual
    if config.learn == "none" or (config.learn is None and config.coefficients_from is not None):
        names = ()
    elif config.learn is not None:
        names = tuple(name.strip() for name in config.learn.split(","))
    try:
        return learned_names(_rule(config), names)
    except ValueError as error:
        raise ConfigError(f"optimizer {config.optimizer}, in key learn: {error}") from error


def _makes(config: RunConfig) -> learners.Makes:
    return learners.makes(config, learned_coefficients(config), OURS[config.optimizer].default("learn"))


def _require_matrices(optimizer: HyperOptimizer, config: RunConfig) -> None:
    """Refuses the keys of hidden matrices for a network that has none."""
    rule = optimizer.rule
    if rule.matrix_weight is None or any(any(matrices.flags(rule, group)) for group in optimizer.param_groups):
        return
    for key in (rule.matrix_weight, "matrix_lr_ratio"):
        if getattr(config, key) is not None:
            raise ValueError(f"{key}={getattr(config, key)}: expected a network with hidden matrices; leave it out")


def weight_decay(config: RunConfig) -> float:
    """The weight decay of `config`, or the default of its optimizer's class, or `DECAY` where that is 0."""
    return _or(config.weight_decay, KNOWN[config.optimizer].default("weight_decay") or DECAY)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and embeddings, which decay, and biases and gains, which don't.

    Checkpoints have these two. The names of parameters tell hidden matrices apart, as `param_groups` does by modules.
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


def _numbers(config: RunConfig) -> dict[str, Any]:
    """The numbers of a baseline."""
    baseline = BASELINES[config.optimizer]
    given = (config.beta1, config.beta2, config.beta3)
    betas = tuple(_or(x, usual) for x, usual in zip(given, baseline.betas, strict=False))
    steps = {"steps": _or(config.lr_decay_iters, config.max_iters)} if baseline.counts_steps else {}
    return {"lr": learning_rate(config), "betas": betas, "eps": _or(config.eps, 1e-8), **steps}


def _baseline_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """`decay_groups`; if it takes matrix_lr, hidden matrices apart from the others, with their own learning rate."""
    groups = decay_groups(model, weight_decay(config))
    if "matrix_lr" not in BASELINES[config.optimizer].keys:
        return groups
    usual = float(learning_rate(config))
    rate = _or(config.matrix_lr, usual)
    return apart(groups, hidden_matrices(model), {LR_FACTOR: rate / usual, "lr": rate})


def _keywords(config: RunConfig) -> dict[str, Any]:
    """The keywords of one of this library's optimizers."""
    ours, rule = OURS[config.optimizer], _rule(config)
    chosen = {q: getattr(config, q) for q in rule.coefficient_names() if getattr(config, q) is not None}
    if "beta1" in chosen or "beta2" in chosen:
        usual = ours.default("betas") or [next(q.default for q in rule.coefficients if q.name == x) for x in BETAS]
        chosen["betas"] = tuple(chosen.pop(q, x) for q, x in zip(BETAS, usual, strict=True))
    for key in ("eps", "matrix_lr_ratio"):
        if getattr(config, key) is not None:
            chosen[key] = getattr(config, key)
    if config.state_dtype != "float32":
        narrow = config.state_dtype
        chosen["state_dtype"] = torch.bfloat16 if narrow == "bfloat16" else narrow
    if config.share_matrices and has_matrices(rule):
        chosen["share_matrices"] = world.of_own_gradients(config.parallel, world.current(torch.device("cpu")))
    return {"lr": learning_rate(config), "learn": learners.learners(config, rule, _makes(config)), **chosen}


def _rule(config: RunConfig) -> Rule:
    return RULES[OURS[config.optimizer].rule]


def _or(x: float | None, default: float) -> float:
    return default if x is None else x
