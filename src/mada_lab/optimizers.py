"""Optimizers by the name they have on the command line."""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

import mada_optim
from mada_lab import controls
from mada_lab.baselines import BASELINES, LR_FACTOR, hidden_matrices
from mada_lab.config import RunConfig
from mada_lab.errors import ConfigError
from mada_optim import HyperOptimizer
from mada_optim.rules import RULES

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
NAMES = (*OURS, *BASELINES)
#: Those that need no learning rate, for a network that isn't trained yet.
LR_FREE, FRESH = ("mada", "mada_pointwise"), ("scratch", "resume")
DECAY = 0.1  # of the others, if none is said; nanoGPT's
#: The coefficients that a configuration may set, each under its own name.
COEFFICIENTS = (
    "beta1",
    "beta2",
    "beta3",
    "rho",
    "c",
    "gamma",
    "momentum",
    "nesterov",
    "alpha",
    "centered",
    "mu",
    "omega",
)


def build(model: nn.Module, config: RunConfig) -> Optimizer:
    """The optimizer that `config` names, with weight decay on tensors of 2 or more dimensions only.

    Raises:
        ConfigError: No optimizer has this name, its package isn't installed, or it refuses a value.
    """
    require_known(config.optimizer)
    try:
        if config.optimizer in BASELINES:
            numbers = {"betas": (_or(config.beta1, 0.9), _or(config.beta2, 0.999)), "eps": _or(config.eps, 1e-8)}
            numbers["lr"] = config.learning_rate
            return BASELINES[config.optimizer](_baseline_groups(model, config), numbers)
        optimizer = _ours(decay_groups(model, weight_decay(config)), config)
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


def without_effect(config: RunConfig) -> list[str]:
    """The coefficients that `config` sets, and its optimizer doesn't have."""
    had = set(_coefficient_names(config))
    return [q for q in COEFFICIENTS if getattr(config, q) is not None and q not in had]


def weight_decay(config: RunConfig) -> float:
    """What `config` says, or what its optimizer's default is: those that need no learning rate have their own."""
    own = config.optimizer in LR_FREE and config.learn is None
    return _or(config.weight_decay, mada_optim.LEARNED_LR["weight_decay"] if own else DECAY)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and embeddings decay; biases and gains, which have one dimension, don't."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [x for x in named if x[1].dim() >= 2], "weight_decay": weight_decay},
        {"params": [x for x in named if x[1].dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _baseline_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """`decay_groups`; for torch_muon, hidden matrices apart from the others, with their own learning rate."""
    groups = decay_groups(model, weight_decay(config))
    if config.optimizer != "torch_muon":
        return groups
    matrices, rate = hidden_matrices(model.named_parameters()), _or(config.matrix_lr, config.learning_rate)
    factor = {LR_FACTOR: rate / config.learning_rate, "lr": rate}
    parts = [
        {**group, **keys, "params": [x for x in group["params"] if (x[1] in matrices) == inside]}
        for inside, keys in ((True, factor), (False, {}))
        for group in groups
    ]
    return [part for part in parts if part["params"]]


def _ours(groups: list[dict[str, Any]], config: RunConfig) -> HyperOptimizer:
    """One of this library's, its hyper learning rates multiplied, its hypergradients falsified if that is asked for."""
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
    names = _coefficient_names(config)
    chosen = {q: getattr(config, q) for q in names if getattr(config, q) is not None}
    if "beta1" in chosen or "beta2" in chosen:
        default = {q.name: q.default for q in RULES[_rule_name(config)].coefficients}
        chosen["betas"] = tuple(chosen.pop(q, default[q]) for q in ("beta1", "beta2"))
    if config.eps is not None:
        chosen["eps"] = config.eps
    if config.learn is not None:
        chosen["learn"] = () if config.learn == "none" else _learned(config.learn)
    hyper = (
        "hyper_lr",
        "hyper_momentum",
        "hyper_clip",
        "hyper_start",
        "hyper_stop",
        "hyper_freeze",
        "hyper_memory",
        "hyper_averaging",
        "hyper_reach",
        "hyper_fall",
        "hyper_rise",
        "matrix_lr_ratio",
        "horizon",
        "lr_init",
    )
    if config.state_dtype != "float32":
        chosen["state_dtype"] = getattr(torch, config.state_dtype)
    if config.hyper_optimizer == "adam":
        lr, betas = _or(config.hyper_lr, 1e-3), (config.hyper_momentum, 0.999)
        chosen["hyper_optimizer"] = lambda leaves: torch.optim.Adam(leaves, lr=lr, betas=betas)
    set_ = {key: getattr(config, key) for key in hyper if getattr(config, key) is not None}
    return {**set_, **chosen}


def _learned(names: str) -> str | tuple[str, ...]:
    return names if names == "all" else tuple(name.strip() for name in names.split(","))


def _coefficient_names(config: RunConfig) -> tuple[str, ...]:
    if config.optimizer in BASELINES:
        return ("beta1", "beta2")
    return RULES[_rule_name(config)].coefficient_names()


def _rule_name(config: RunConfig) -> str:
    cls, options = OURS[config.optimizer]
    return options.get("rule", cls.preset.rule_for(options.get("learn", config.learn)))


def _or(x: float | None, default: float) -> float:
    return default if x is None else x
