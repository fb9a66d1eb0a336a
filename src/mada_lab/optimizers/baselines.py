"""Optimizers of others, for comparison.

Schedule-Free trains at one point and is evaluated at another, the average; `evaluated` switches between them. Its
checkpoints hold the point of training.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from mada_lab.errors import ConfigError, DataError
from mada_lab.system import optional
from mada_optim import param_groups
from mada_optim.matrices import hidden_matrices as matrices

LR_FACTOR = "lr_factor"  # of a group: its learning rate over that of the configuration
OF_MATRICES = ("beta1", "beta2", "eps", "matrix_lr")  # keys of optimizers that have another rate for hidden matrices
SOAP_SIDE = 1024  # the longest side of a matrix that SOAP computes a basis for

Groups = list[dict[str, Any]]
Numbers = dict[str, Any]
"""Keywords of an AdamW: lr, betas, eps; and `steps`, the length of the schedule, if the baseline counts them."""


def adamw(groups: Groups, numbers: Numbers) -> Optimizer:
    """Torch's AdamW in its fastest form, which shares no code with ours."""
    return torch.optim.AdamW(groups, **{"fused": True, **numbers})


def prodigy(groups: Groups, numbers: Numbers) -> Optimizer:
    """Prodigy (Mishchenko and Defazio, ICML 2024); its lr is a factor on its own estimate, usually 1."""
    cls = _load("prodigyopt").Prodigy
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line about weight decay
        optimizer: Optimizer = cls(groups, safeguard_warmup=True, use_bias_correction=True, **numbers)
    for group in optimizer.param_groups:  # keys that a step adds, so that a checkpoint fits
        group.update(d_denom=0.0, d_hat=group["d0"])
    return optimizer


def schedulefree(groups: Groups, numbers: Numbers) -> Optimizer:
    """AdamW without a schedule (Defazio et al., NeurIPS 2024); use it with decay_lr=false."""
    optimizer: Optimizer = _load("schedulefree").AdamWScheduleFree(groups, **numbers)
    optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def muon(groups: Groups, numbers: Numbers) -> Optimizer:
    """AdamW on the groups without LR_FACTOR, Muon (Jordan et al. 2024), at the RMS of AdamW's updates, on the others.

    Raises:
        ConfigError: There are no others.
    """
    _require_matrices("torch_muon", groups)
    return Muon(groups, numbers)


def normuon(groups: Groups, numbers: Numbers) -> Optimizer:
    """NorMuon (arXiv 2510.05491, algorithm 1) at the RMS of AdamW's updates on the groups with LR_FACTOR, AdamW else.

    Raises as `muon`.
    """
    _require_matrices("pytorch_optimizer_normuon", groups)
    eps, betas = numbers["eps"], numbers["betas"]
    own: Numbers = {"lr": numbers["lr"], "use_muon": False, "betas": betas, "eps": eps}
    parts = [{"use_muon": True, **group} if LR_FACTOR in group else {**own, **group} for group in groups]
    return _peer("NorMuon", parts, update_scale="match_rms")


def soap(groups: Groups, numbers: Numbers) -> Optimizer:
    """SOAP (arXiv 2409.11321); the side of a vocabulary has no basis of its own, as in the paper."""
    return _peer("SOAP", groups, max_precondition_dim=SOAP_SIDE, **numbers)


def ademamix(groups: Groups, numbers: Numbers) -> Optimizer:
    """AdEMAMix (arXiv 2409.03137), with both of its ramps over the whole schedule, as in the paper."""
    numbers = dict(numbers)
    ramp = float(numbers.pop("steps"))
    return _peer("AdEMAMix", groups, weight_decouple=True, t_alpha_beta3=ramp, **numbers)


def mars(groups: Groups, numbers: Numbers) -> Optimizer:
    """MARS-AdamW (arXiv 2411.10438), its approximate form; AdamW on vectors, at the same learning rate."""
    return _peer("MARS", groups, lr_1d=numbers["lr"], weight_decay_1d=0.0, **numbers)


def _peer(name: str, groups: Groups, **keywords: Any) -> Optimizer:
    optimizer: Optimizer = getattr(_load("pytorch_optimizer"), name)(groups, **keywords)
    for group in optimizer.param_groups:  # a key that a step adds, so that a checkpoint fits
        group.setdefault("step", 0)
    return optimizer


def _require_matrices(name: str, groups: Groups) -> None:
    if not any(LR_FACTOR in group for group in groups):
        refusal = "expected a network with linear layers between the first and the last, got none"
        raise ConfigError(f"optimizer {name}: {refusal}; use adamw")


@dataclass(frozen=True)
class Baseline:
    """An optimizer of others."""

    make: Callable[[Groups, Numbers], Optimizer]  #: makes it from groups and numbers
    description: str  #: its description in reports
    lr: float = 1e-3  #: its default learning rate
    keys: tuple[str, ...] = ("beta1", "beta2", "eps")  #: the keys that it takes, beside those of all optimizers
    betas: tuple[float, ...] = (0.9, 0.999)  #: its default betas
    counts_steps: bool = False  #: whether it has to know the length of the schedule

    def default(self, keyword: str) -> Any:
        """The value of `keyword` if it isn't given; None if nothing is known of it."""
        return self.lr if keyword == "lr" else None


#: By the name on the command line.
BASELINES: dict[str, Baseline] = {
    "adamw": Baseline(adamw, "PyTorch's AdamW"),
    "prodigy": Baseline(prodigy, "Prodigy", lr=1.0),
    "schedulefree": Baseline(schedulefree, "Schedule-Free AdamW", lr=2.5e-3),
    "torch_muon": Baseline(muon, "PyTorch's Muon on hidden matrices and AdamW elsewhere", keys=OF_MATRICES),
    "pytorch_optimizer_normuon": Baseline(
        normuon, "NorMuon of the package pytorch_optimizer on hidden matrices and AdamW elsewhere", keys=OF_MATRICES
    ),
    "soap": Baseline(soap, "SOAP", lr=3e-3, betas=(0.95, 0.95)),
    "ademamix": Baseline(
        ademamix,
        "AdEMAMix",
        keys=("beta1", "beta2", "beta3", "eps"),
        betas=(0.9, 0.999, 0.9999),
        counts_steps=True,
    ),
    "mars": Baseline(mars, "MARS on AdamW", lr=3e-3, betas=(0.95, 0.99)),
}


class Muon(Optimizer):
    """torch's Muon on some groups and torch's AdamW on the others, which share the groups and state of this one."""

    def __init__(self, groups: Groups, numbers: Numbers) -> None:
        """Splits the groups: those with LR_FACTOR, of matrices alone, are Muon's."""
        matrices = [group for group in groups if LR_FACTOR in group]
        others = [group for group in groups if LR_FACTOR not in group]
        self._muon = torch.optim.Muon(matrices, lr=numbers["lr"], adjust_lr_fn="match_rms_adamw")
        self._adamw = adamw(others, numbers)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Gives both parts the groups and state of this optimizer."""
        self._muon.param_groups = [group for group in self.param_groups if LR_FACTOR in group]
        self._adamw.param_groups = [group for group in self.param_groups if LR_FACTOR not in group]
        self._muon.state = self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step of both; a closure isn't called."""
        self._muon.step()
        self._adamw.step()


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """The hidden matrices without kernels of convolutions, which torch's Muon refuses."""
    return {x.parameter for x in param_groups(model).weights if x.matrix is not False and x.parameter.ndim == 2}


def muon_groups(named: Iterable[tuple[str, nn.Parameter]]) -> Groups:
    """Groups for `muon`, all at one learning rate, of parameters without their module."""
    names, params = zip(*(named := list(named)), strict=True)
    (flags,) = matrices.hidden([{"params": params, "param_names": names}])
    hidden = {p for p, flag in zip(params, flags, strict=True) if flag is not False and p.ndim == 2}
    return apart([{"params": named}], hidden, {LR_FACTOR: 1.0})


def apart(groups: Groups, hidden: set[Tensor], keys: dict[str, Any]) -> Groups:
    """The groups, split so that hidden matrices are in groups with `keys`, the first ones."""
    parts = [
        {**group, **extra, "params": [x for x in group["params"] if (x[1] in hidden) == inside]}
        for inside, extra in ((True, keys), (False, {}))
        for group in groups
    ]
    return [part for part in parts if part["params"]]


@contextmanager
def evaluated(optimizer: Optimizer) -> Iterator[None]:
    """Sets the weights that the optimizer wants evaluated; afterwards they are again, to the bit, those of training."""
    if not hasattr(optimizer, "eval"):
        yield
        return
    params = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [p.detach().clone() for p in params]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for p, x in zip(params, kept, strict=True):
                p.copy_(x)


def _load(package: str) -> Any:
    try:
        return optional.load(package, "mada-optim[lab]")
    except DataError as error:
        raise ConfigError(str(error)) from error
