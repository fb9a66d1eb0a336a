"""Families of optimizers that are compared: the keys that are tuned, and equally many trials of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.quasirandom import SobolEngine

from mada_lab.experiments.sweeps.plan import Values
from mada_lab.optimizers.catalog import OURS

SOBOL_SEED = 0
MATRIX_LR = "matrix_lr"


@dataclass(frozen=True)
class Axis:
    """The range of a key, drawn evenly in the logarithm of the key, or with `complement` of 1 minus the key."""

    low: float
    high: float
    scale: Literal["log", "complement"] = "log"

    def at(self, u: float) -> float:
        """The value at `u` in [0, 1], `low` at 0; rounded, so that names and pages show all its digits."""
        if self.scale == "complement":
            return round(1 - Axis(1 - self.low, 1 - self.high).at(u), 6)
        return float(f"{self.low * (self.high / self.low) ** u:.4g}")


@dataclass(frozen=True)
class Family:
    """Optimizers of one kind."""

    optimizer: str  #: its name in a configuration
    usual: Values  #: the usual values, which are the first trial
    space: Mapping[str, Axis]  #: by key, the range that the other trials are drawn from
    fixed: Values = field(default_factory=dict)  #: keys that all trials share

    def trials(self, count: int) -> list[Values]:
        """The keys of `count` trials, 1 at least: the usual values, then a Sobol sequence. More begin with the same."""
        if count == 1:
            return [self.values(self.usual)]
        drawn = SobolEngine(len(self.space), scramble=True, seed=SOBOL_SEED).draw(count - 1)
        points = [
            {key: axis.at(u) for (key, axis), u in zip(self.space.items(), row, strict=True)} for row in drawn.tolist()
        ]
        return [self.values(point) for point in [self.usual, *points]]

    def values(self, point: Values) -> Values:
        """The keys of a point."""
        return {"optimizer": self.optimizer, **self.fixed, **point}


LR, WIDE_LR = Axis(1e-4, 3e-2), Axis(3e-4, 1e-1)
DECAY = Axis(0.01, 1.0)
BETA1, BETA2 = Axis(0.5, 0.98, "complement"), Axis(0.9, 0.9995, "complement")
BETAS = {"beta1": BETA1, "beta2": BETA2}
ADAM: dict[str, Axis] = {"learning_rate": LR, **BETAS, "weight_decay": DECAY}
USUAL: dict[str, Any] = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.1}

#: By name. AdamW has to be first: the others are compared with it.
FAMILIES: dict[str, Family] = {
    "adamw": Family("adamw", USUAL, ADAM),
    "nadam": Family("nadam", USUAL, ADAM),
    "avgrad": Family("avgrad", USUAL, ADAM),
    "adan": Family(
        "adan",
        {**USUAL, "beta1": 0.98, "beta2": 0.99, "beta3": 0.92},
        {"learning_rate": WIDE_LR, **BETAS, "beta3": Axis(0.5, 0.99, "complement"), "weight_decay": DECAY},
    ),
    "lion": Family(
        "lion",
        {"learning_rate": 3e-4, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.3},
        {
            "learning_rate": Axis(2e-5, 6e-3),
            "beta1": BETA1,
            "beta2": Axis(0.9, 0.998, "complement"),
            "weight_decay": Axis(0.05, 5.0),
        },
    ),
    "yogi": Family("yogi", {**USUAL, "learning_rate": 1e-2}, ADAM),
    "hyperadam": Family(
        "hyperadam",
        {"learning_rate": 1e-3, "hyper_lr": 5e-4, "weight_decay": 0.1},
        {"learning_rate": LR, "hyper_lr": Axis(1e-5, 1e-1), "weight_decay": DECAY},
    ),
    "prodigy": Family("prodigy", {**USUAL, "learning_rate": 1.0}, {**ADAM, "learning_rate": Axis(0.1, 10.0)}),
    "schedulefree": Family(
        "schedulefree",
        {**USUAL, "learning_rate": 2.5e-3},
        {**ADAM, "learning_rate": Axis(3e-4, 3e-2)},
        {"decay_lr": False},
    ),
    "muon": Family(
        "torch_muon",
        {"learning_rate": 1e-3, MATRIX_LR: 1e-3, "weight_decay": 0.1},
        {"learning_rate": LR, MATRIX_LR: LR, "weight_decay": DECAY},
    ),
    "normuon": Family(
        "pytorch_optimizer_normuon",
        {"learning_rate": 1e-3, MATRIX_LR: 1e-3, "weight_decay": 0.1},
        {"learning_rate": LR, MATRIX_LR: LR, "weight_decay": DECAY},
    ),
    "soap": Family("soap", {"learning_rate": 3e-3, "beta1": 0.95, "beta2": 0.95, "weight_decay": 0.1}, ADAM),
    "ademamix": Family("ademamix", {**USUAL, "beta3": 0.9999}, {**ADAM, "beta3": Axis(0.99, 0.9999, "complement")}),
    "mars": Family("mars", {"learning_rate": 3e-3, "beta1": 0.95, "beta2": 0.99, "weight_decay": 0.1}, ADAM),
    "automuon": Family("automuon", {"weight_decay": OURS["automuon"].default("weight_decay")}, {"weight_decay": DECAY}),
}

PAPER_BOUNDS = "beta1=0.01:0.99,beta2=0.501:0.99,beta3=0:0.99"  # of the published code
#: Rows without tuning, by name; each optimizer has its default learning rate.
DEFAULTS: dict[str, Values] = {
    "adamw_default": {"optimizer": "adamw", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.1},
    "automuon_default": {"optimizer": "automuon"},
    "autoadam_default": {"optimizer": "autoadam"},
    "mada_default": {"optimizer": "mada"},
    "mada_paper_gpt2": {"optimizer": "mada", "rho": 0.6, "eps": 1e-6, "bounds": PAPER_BOUNDS},
    "hyperadam_default": {"optimizer": "hyperadam"},
    "prodigy_default": {"optimizer": "prodigy"},
    "schedulefree_default": {"optimizer": "schedulefree", "decay_lr": False},
}


def suits(family: str, matrices: bool) -> bool:
    """Whether a family can train a network with or without hidden matrices."""
    return matrices or MATRIX_LR not in FAMILIES[family].space
