"""The runs of each section on a task: names of groups of seeds, and their keys."""

from collections.abc import Sequence
from dataclasses import dataclass

from mada_lab.experiments.bench import families
from mada_lab.experiments.bench.families import DEFAULTS, FAMILIES
from mada_lab.experiments.bench.tasks import BenchTask
from mada_lab.experiments.seeds import run_name
from mada_lab.experiments.sweeps.plan import Values
from mada_lab.optimizers.catalog import LR_FREE
from mada_optim.rules import RULES

SECTIONS = ("defaults", "tuned", "lr_map", "betas_map", "hyper_lr", "ablations")
TRIAL_SEED = 0
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FIRST_BETAS = (0.5, 0.8, 0.9, 0.97, 0.99)
SECOND_BETAS = (0.6, 0.9, 0.95, 0.99, 0.999)
#: Factors on MADA's hyper learning rates: over 2 decades, and over 4.
HYPER, FAR_HYPER = (0.1, 0.3162, 1.0, 3.162, 10.0), (0.01, 100.0)
MAIN, SIX = "automuon_default", "mada_default"
#: This library's optimizers that the required figures are about, with their rows at defaults.
CONTENDERS = {name: f"{name}_default" for name in LR_FREE}
#: Also in the map of learning rates: optimizers whose learned lr starts at the base lr.
FROM_BASE: dict[str, Values] = {f"{name}_from_lr": {"optimizer": name} for name in LR_FREE}
#: Optimizers on the grid of initial betas.
OF_BETAS = ("adamw", "mada")

Runs = dict[str, Values]


@dataclass(frozen=True)
class Scope:
    """The part of the bench that is asked for."""

    sections: tuple[str, ...] = SECTIONS  #: some of SECTIONS
    families: tuple[str, ...] = tuple(FAMILIES)  #: names of the families that are tuned
    trials: int = 16  #: number of trials of each family
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)  #: seeds of the defaults, of the tuned trials and of the ablations
    map_seeds: tuple[int, ...] = (1, 2)  #: seeds of the maps
    rates: tuple[float, ...] = RATES  #: base learning rates of the map
    #: First and second betas of the map
    betas: tuple[tuple[float, ...], tuple[float, ...]] = (FIRST_BETAS, SECOND_BETAS)
    #: Optimizers of the map of learning rates, or some of FROM_BASE
    mapped: tuple[str, ...] = ("adamw", *LR_FREE, *FROM_BASE)

    def tuned(self, task: BenchTask) -> tuple[str, ...]:
        """The families that are tuned on the task; AdamW always, since the others are compared with it."""
        wanted = self.families if "tuned" in self.sections else ()
        return tuple(name for name in FAMILIES if name in ("adamw", *wanted) and families.suits(name, task.matrices))


def trials(scope: Scope, task: BenchTask) -> Runs:
    """The runs of the tuning."""
    return {
        run_name(trial_name(family, i), TRIAL_SEED): {**values, "seed": TRIAL_SEED}
        for family in scope.tuned(task)
        for i, values in enumerate(FAMILIES[family].trials(scope.trials))
    }


def trial_name(family: str, number: int) -> str:
    """Name of a trial, whatever its seed."""
    return f"{family}.trial{number:02d}"


def best_name(family: str) -> str:
    """Prefix of the group of a family's best trial; the number of the trial follows."""
    return f"{family}.best"


def tuned_groups(scope: Scope, task: BenchTask, best: dict[str, int]) -> Runs:
    """The best trial of each family, by group. It is run with other seeds than the one that chose it."""
    return {
        f"{best_name(family)}{best[family]:02d}": FAMILIES[family].trials(scope.trials)[best[family]]
        for family in scope.tuned(task)
        if family in best
    }


def lr_map(scope: Scope) -> Runs:
    """Optimizers at their defaults, over base learning rates; those that compute their start have one run for all."""
    keys = {name: FROM_BASE.get(name, {"optimizer": name}) for name in scope.mapped}
    return {
        lr_name(name, x): {**keys[name], "learning_rate": "auto" if name in LR_FREE else x}
        for name in scope.mapped
        for x in scope.rates
    }


def lr_name(optimizer: str, x: float) -> str:
    """Name of a group of the map of learning rates."""
    return f"{optimizer}.lr=auto" if optimizer in LR_FREE else f"{optimizer}.lr={x:g}"


def betas_map(scope: Scope, learning_rate: float) -> Runs:
    """AdamW and MADA over initial betas, at one learning rate. AutoMuon's guard refuses most of them."""
    return {
        betas_name(name, x, y): {"optimizer": name, "beta1": x, "beta2": y, "learning_rate": learning_rate}
        for name in OF_BETAS
        for x in scope.betas[0]
        for y in scope.betas[1]
    }


def betas_name(optimizer: str, beta1: float, beta2: float) -> str:
    """Name of a group of the map of betas."""
    return f"{optimizer}.betas={beta1:g}_{beta2:g}"


def hyper_map(factors: Sequence[float] = HYPER) -> Runs:
    """Learned learning rates with their hyper learning rates multiplied."""
    return {
        hyper_name(name, x): {**DEFAULTS[row], "hyper_lr_factor": x}
        for name, row in CONTENDERS.items()
        for x in factors
    }


def hyper_name(optimizer: str, factor: float) -> str:
    """Name of a group with hyper learning rates of so many times the default."""
    return f"{optimizer}.hyper={factor:g}"


def ablations() -> Runs:
    """AutoMuon, AutoAdam and MADA, each changed in one thing.

    AutoMuon and AutoAdam: the learning rate stays where it starts; AutoMuon's moves along the hypergradient instead of
    against it. MADA: one coefficient is learned alone, or none, or from altered hypergradients.
    """
    main, auto, six = DEFAULTS[MAIN], DEFAULTS[CONTENDERS["autoadam"]], DEFAULTS[SIX]
    return {
        "automuon.start_only": {**main, "hyper_lr_factor": 0.0},
        "automuon.negated": {**main, "hyper_optimizer": "negated"},
        "autoadam.start_only": {**auto, "hyper_lr_factor": 0.0},
        **hyper_map(FAR_HYPER),
        SIX: six,
        **{f"mada.only_{q}": {**six, "learn": q} for q in RULES["mada"].coefficient_names()},
        "mada.none": {**six, "learn": "none"},
        **{f"mada.{kind}": {**six, "hyper_optimizer": kind} for kind in ("negated", "shuffled")},
        TRACED: {**six, "optimizer": "mada_traced"},
    }


def followers(seeds: Sequence[int]) -> Runs:
    """Runs that take their final coefficients, or the sizes of their steps, from MADA's run of the same seed."""
    keys = {
        FIXED: (DEFAULTS[SIX], "coefficients_from", SIX),
        EQUAL: ({**DEFAULTS[SIX], "optimizer": "mada_paced"}, "pace_from", TRACED),
    }
    return {
        run_name(name, seed): {**values, "seed": seed, key: f"@{run_name(source, seed)}"}
        for name, (values, key, source) in keys.items()
        for seed in seeds
    }


FIXED, EQUAL, TRACED = "mada.final_fixed", "mada.equal_rms", "mada.traced"


def variants() -> list[str]:
    """Names of the groups at defaults, with other hyper learning rates, and with one thing changed."""
    return list(dict.fromkeys([*CONTENDERS.values(), *hyper_map(), *ablations(), FIXED, EQUAL]))


def after_tuning(scope: Scope, task: BenchTask, best: dict[str, int]) -> Runs:
    """All runs that need the tuning, and no other run."""
    groups, sections = tuned_groups(scope, task, best), scope.sections
    if {"defaults", "ablations"} & set(sections):
        groups |= DEFAULTS if "defaults" in sections else {MAIN: DEFAULTS[MAIN]}
    groups |= ablations() if "ablations" in sections else {}
    runs = _seeded(groups, scope.seeds)
    maps = lr_map(scope) if "lr_map" in sections else {}
    if "betas_map" in sections:
        maps |= betas_map(scope, FAMILIES["adamw"].trials(scope.trials)[best["adamw"]]["learning_rate"])
    maps |= hyper_map() if "hyper_lr" in sections else {}
    return {**runs, **_seeded(maps, scope.map_seeds)}


def _seeded(groups: Runs, seeds: Sequence[int]) -> Runs:
    return {run_name(name, seed): {**values, "seed": seed} for name, values in groups.items() for seed in seeds}
