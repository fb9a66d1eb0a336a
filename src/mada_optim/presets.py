"""Optimizers by name: a rule, what is learned of it, and its usual numbers.

All take the same keywords (`mada_optim.HyperOptimizer` says what they mean); `learn=()` gives the plain optimizer. The
classical names are plain unless `learn` says otherwise.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim import checks
from mada_optim.guard import Guard, suits
from mada_optim.hyper.learner import HyperOptimizerFactory
from mada_optim.optim import HyperOptimizer, Preset, find_rule
from mada_optim.spec import LR, Rule

#: The paper's GPT-2 runs, as released: `MADA(params, lr=6e-4, weight_decay=0.1, **PAPER)`. The released intervals too.
PAPER: dict[str, Any] = {
    "betas": (0.9, 0.95),
    "beta3": 0.0,
    "rho": 0.6,
    "c": 1.0,
    "gamma": 1.0,
    "eps": 1e-6,
    "learn": "all",
    "hyper_lr": {"beta1": 5e-4, "beta2": 5e-4, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-1},
    "hyper_momentum": 0.0,
    "hyper_clip": 10.0,
    "hyper_start": 50,
    "bounds": {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99), "beta3": (0.0, 0.99)},
}

#: The paper's Shakespeare runs: other hyper learning rates, momentum, and the usual eps.
PAPER_SHAKESPEARE: dict[str, Any] = {**PAPER, "eps": 1e-8, "hyper_lr": 2.5e-3, "hyper_momentum": 0.5}

#: What `MADA` does where `learn` isn't named: nothing but lr is learned, from its trace, by steps of at most .1 in its
#: logarithm, as long as the trace says more than its noise, down to 1 / (1 + t / 300) of its start at most, and up from
#: there as far as steps agree by more than .65, until a schedule takes it below two fifths of its peak. The numbers are
#: from trials on small networks, docs/lab-notebook.md.
LEARNED_LR: dict[str, Any] = {
    "betas": (0.9, 0.99),
    "weight_decay": 0.3,
    "guard": Guard(ramp=100.0, least_beta2=0.99),
    "learn": "lr",
    "horizon": 0.9999,
    "hyper_lr": 1.0,
    "hyper_memory": 0.999,
    "hyper_clip": 1.0,
    "hyper_averaging": 0.9,
    "hyper_reach": 0.1,
    "hyper_fall": 300.0,
    "hyper_rise": 0.65,
    "hyper_start": 10,
    "hyper_freeze": 0.4,
    "matrix_lr_ratio": 2.0,
}

#: The guard in the place of that one under a rule without Muon: hidden matrices have beta1 then, and those of networks
#: for text want it from the first steps on.
POINTWISE_GUARD = Guard(least_beta2=0.99)


class MADA(HyperOptimizer):
    """MADA: Adam, AVGrad, Yogi, Adan and Lion in one update, whose coefficients are learned in training.

    Ozkara et al., ICML 2024 (arXiv 2401.08893). The keywords are those of `HyperOptimizer`.

    With no `learn`, it is Muon on hidden weight matrices, at twice the learning rate of Adam elsewhere, which is
    learned from its trace (`LEARNED_LR`). It starts at `lr`; with no `lr`, where the shapes of the matrices say. That
    is for training from scratch: to go on from trained weights, say how small the first steps should be. From its start
    it falls no faster than 1 / (1 + t / 300) in t steps, as hypergradients are short-sighted (`hyper_fall`), and it
    rises above its start as far as most steps since then have agreed on that (`hyper_rise`). Give it
    `param_groups(model)`, whose modules tell hidden matrices from all else. From `model.named_parameters()` it guesses
    by names and shapes, from `model.parameters()` by shapes alone; a group's key `matrix` says it. Weights decay by .3
    times lr. It guards its betas: beta1 is t / (t + 100) until that is larger, a beta2 below .99 is .99
    (`mada_optim.guard`). `weight_decay=0` and `guard=False` are for neither.

    `rule="mada"` is the same without Muon: a step per element for all, whose cost doesn't grow with the matrices, and
    a beta1 that is t / (t + 5) until that is larger.

    With `learn`, it is the paper's: `learn="all"` learns the six coefficients by the paper's hyper-steps, at the lr
    that is given, and `**PAPER` gives their other numbers; `learn=()` is Adam; `rule="mada_released"` computes what
    the authors' code does. `rule="mada_matrix"` adds `omega` to them, Muon's weight on hidden matrices (1 if None).

    Args that are None take the numbers of `LEARNED_LR` where `learn` isn't named, else those of `HyperOptimizer`, and
    betas of (.9, .95), no decay and no guard. Without `lr`, that is 1e-3, and `lr_init` is "auto" if lr is learned.
    """

    preset = Preset("mada_matrix", ("lr",), lr=1e-3, rule_named="mada")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        weight_decay: float | None = None,
        *,
        beta3: float = 0.0,
        rho: float = 1.0,
        c: float = 1.0,
        gamma: float = 1.0,
        omega: float | None = None,
        learn: str | Iterable[str] | None = None,
        hyper_lr: float | Mapping[str, float] | None = None,
        hyper_momentum: float | Mapping[str, float] | None = None,
        hyper_clip: float | None = None,
        hyper_start: int | None = None,
        hyper_stop: int | None = None,
        hyper_freeze: float | None = None,
        hyper_memory: float | Mapping[str, float] | None = None,
        hyper_averaging: float | Mapping[str, float] | None = None,
        hyper_reach: float | Mapping[str, float] | None = None,
        hyper_fall: float | None = None,
        hyper_rise: float | None = None,
        hyper_optimizer: HyperOptimizerFactory | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        horizon: float | None = None,
        matrix_lr_ratio: float | None = None,
        lr_init: str | float | None = None,
        scope: str = "global",
        rule: str | Rule | None = None,
        guard: bool | Guard | None = None,
        engine: str = "auto",
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        learn = None if learn is None else checks.names_of(learn)
        learns_lr = learn is None or LR.name in ([learn] if isinstance(learn, str) else learn)
        if lr is None and lr_init is None and learns_lr:
            lr_init = "auto"
        given = {
            "betas": betas,
            "weight_decay": weight_decay,
            "learn": learn,
            "hyper_lr": hyper_lr,
            "hyper_clip": hyper_clip,
            "hyper_start": hyper_start,
            "hyper_freeze": hyper_freeze,
            "hyper_memory": hyper_memory,
            "hyper_averaging": hyper_averaging,
            "hyper_reach": hyper_reach,
            "hyper_fall": hyper_fall,
            "hyper_rise": hyper_rise,
            "horizon": horizon,
            "matrix_lr_ratio": matrix_lr_ratio,
            "lr_init": lr_init,
            "omega": omega,
            "guard": guard,
        }
        usual: dict[str, Any] = dict(LEARNED_LR) if learn is None else {"betas": (0.9, 0.95)}
        rule = find_rule(self.preset.rule_for(learn) if rule is None else rule)
        if learn is None and rule.matrix_weight is None:
            usual["guard"] = POINTWISE_GUARD
        if not suits(rule):
            usual.pop("guard", None)
        if not (hyper_memory is None or hyper_memory):  # without a size there is nothing to weigh
            usual = {key: x for key, x in usual.items() if key not in ("hyper_averaging", "hyper_rise")}
        super().__init__(
            params,
            lr,
            eps=eps,
            rule=rule,
            hyper_momentum=hyper_momentum,
            hyper_stop=hyper_stop,
            hyper_optimizer=hyper_optimizer,
            bounds=bounds,
            scope=scope,
            engine=engine,
            maximize=maximize,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            beta3=beta3,
            rho=rho,
            c=c,
            gamma=gamma,
            **{**usual, **{key: x for key, x in given.items() if x is not None}},
        )


class SGD(HyperOptimizer):
    """Gradient descent, with `momentum` and `nesterov` in [0, 1] as in torch.optim; weight decay is decoupled."""

    preset = Preset("sgd", (), lr=1e-3)


class AdaGrad(HyperOptimizer):
    """A learning rate per element that falls with the sum of its squared gradients (Duchi et al., JMLR 2011)."""

    preset = Preset("adagrad", (), lr=1e-2)


class RMSprop(HyperOptimizer):
    """Gradients over their running root mean square, with `alpha`, `momentum` and `centered` as in torch.optim."""

    preset = Preset("rmsprop", (), lr=1e-2)


class HyperAdam(HyperOptimizer):
    """Adam with decoupled weight decay, whose betas are learned."""

    preset = Preset("adam", ("beta1", "beta2"), lr=1e-3)


class Adam(HyperOptimizer):
    """Adam with decoupled weight decay, which is AdamW (Loshchilov and Hutter, ICLR 2019)."""

    preset = Preset("adam", (), lr=1e-3)


class AMSGrad(HyperOptimizer):
    """Adam with the running maximum of v (Reddi et al., ICLR 2018)."""

    preset = Preset("amsgrad", (), lr=1e-3)


class AVGrad(HyperOptimizer):
    """Adam with the running mean of v (Ozkara et al., ICML 2024)."""

    preset = Preset("avgrad", (), lr=1e-3)


class Yogi(HyperOptimizer):
    """Adam whose v moves by additive steps (Zaheer et al., NeurIPS 2018)."""

    preset = Preset("yogi", (), lr=1e-2)


class Adan(HyperOptimizer):
    """Adam with Nesterov momentum by gradient differences (Xie et al. 2022).

    The authors' betas (.98, .92, .99) are `betas=(.98, .99), beta3=.92` here, the default.
    """

    preset = Preset("adan", (), lr=1e-3)


class Lion(HyperOptimizer):
    """The sign of an interpolated momentum (Chen et al., NeurIPS 2023). Its lr is 3 to 10 times smaller than Adam's."""

    preset = Preset("lion", (), lr=1e-4)


class NAdam(HyperOptimizer):
    """Adam whose momentum looks ahead (Dozat, ICLR 2016 workshop), with torch.optim's `momentum_decay`."""

    preset = Preset("nadam", (), lr=2e-3)
