"""Optimizers on one task, several seeds each, with the same budget: a plan of runs, and what the runs came to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from mada_lab.config.keys import TrainConfig
from mada_lab.errors import ConfigError
from mada_lab.experiments.sweeps.plan import Plan, Values, require_used
from mada_lab.records.outcome import outcome
from mada_lab.records.run_record import MANIFEST, Run, read_run

Cases = Mapping[str, Values]

#: What is compared unless something else is asked for; the first is what the others are compared with.
BASELINES: dict[str, Values] = {
    "adamw": {},
    "amsgrad": {},
    "avgrad": {},
    "yogi": {},
    "adan": {},
    "lion": {},
    "sgd": {"momentum": 0.9},
    "hyperadam": {},
    "mada": {},
    "mada_fs": {},
    "automuon": {},
}
#: Names for what is no optimizer by itself. A source `@CASE` is that case's run of the same seed.
ALIASES: dict[str, Values] = {"mada_fs": {"optimizer": "mada", "coefficients_from": "@mada"}}
SOURCE = "coefficients_from"


def plans(base: TrainConfig, cases: Cases, seeds: Sequence[int]) -> list[Plan]:
    """The runs, in parts that come one after the other: those that need no other run, and those that do.

    Raises:
        ConfigError: A wrong key or value, or a source that isn't compared.
    """
    full = {name: {"optimizer": name} | ALIASES.get(name, {}) | values for name, values in cases.items()}
    later = {name: values for name, values in full.items() if str(values.get(SOURCE, "")).startswith("@")}
    first = {name: values for name, values in full.items() if name not in later}
    for name, values in later.items():
        if values[SOURCE][1:] not in first:
            what = f"expected one of {', '.join(first)} after @, got {values[SOURCE]}; compare that one too"
            raise ConfigError(f"compare, {name}, key {SOURCE}: {what}")
    parts = [Plan(base, first, {"seed": list(seeds)})]
    if later:
        parts.append(Plan(base, _with_sources(later, seeds)))
    for plan in parts:
        plan.check()
    require_used(parts)
    return parts


def _with_sources(cases: Cases, seeds: Sequence[int]) -> dict[str, Values]:
    return {
        run_name(name, seed): values | {"seed": seed, SOURCE: f"@{run_name(values[SOURCE][1:], seed)}"}
        for name, values in cases.items()
        for seed in seeds
    }


def run_name(case: str, seed: int) -> str:
    """Name of the folder of a run."""
    return f"{case}_seed={seed}"


@dataclass(frozen=True)
class Group:
    """The runs of one case, in the order of the seeds; None where one is missing or failed."""

    name: str
    runs: list[Run | None]

    def losses(self, which: str) -> list[float]:
        """Final "training" or "validation" loss per seed; NaN where there is none."""
        return [math.nan if run is None else _final(run, which) for run in self.runs]


def read_groups(out: Path, cases: Sequence[str], seeds: Sequence[int]) -> list[Group]:
    """The finished runs under `out`. Raises ConfigError if a record is malformed."""
    return [Group(case, [_finished(out / run_name(case, seed)) for seed in seeds]) for case in cases]


def _finished(folder: Path) -> Run | None:
    run = read_run(folder) if (folder / MANIFEST).exists() else None
    return run if run is not None and run.summary is not None else None


def _final(run: Run, which: str) -> float:
    found = outcome(run)
    loss = found.train_loss if which == "training" else found.val_loss
    return math.nan if loss is None else loss


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of what is finite; NaN where there is too little.

    Attributes:
        mean: The mean.
        sd: The standard deviation, from two values on.
        values: What it is of, per seed.
    """

    mean: float
    sd: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        known = [x for x in values if math.isfinite(x)]
        mean = fmean(known) if known else math.nan
        return cls(mean, stdev(known) if len(known) > 1 else math.nan, list(values))

    @property
    def failed(self) -> int:
        """How many seeds have no finite value."""
        return sum(not math.isfinite(x) for x in self.values)


def differences(group: Group, first: Group, which: str) -> Spread:
    """The paired differences from `first`, seed by seed."""
    return Spread.of([a - b for a, b in zip(group.losses(which), first.losses(which), strict=True)])


NOTHING = "-"
HEAD = (
    "optimizer",
    "validation loss",
    "difference",
    "lower in",
    "training loss",
    "difference",
    "lower in",
    "failed",
    "ms per step",
)


def rows(groups: Sequence[Group]) -> list[list[str]]:
    """The table under HEAD: mean ± standard deviation over seeds, and paired differences from the first group."""
    return [_row(group, groups[0]) for group in groups]


def _row(group: Group, first: Group) -> list[str]:
    cells = [group.name]
    for which in ("validation", "training"):
        cells.append(shown(Spread.of(group.losses(which))))
        paired = differences(group, first, which)
        known = [x for x in paired.values if math.isfinite(x)]
        cells += ["", ""] if group is first else [shown(paired, "+"), f"{sum(x < 0 for x in known)} of {len(known)}"]
    cells.append(f"{Spread.of(group.losses('validation')).failed} of {len(group.runs)}")
    times = [outcome(run).milliseconds_per_step for run in group.runs if run is not None]
    cells.append(f"{fmean(x for x in times if x is not None):.1f}" if any(times) else NOTHING)
    return cells


def shown(spread: Spread, sign: str = "") -> str:
    """Mean ± standard deviation."""
    if math.isnan(spread.mean):
        return NOTHING
    sd = "" if math.isnan(spread.sd) else f" ± {spread.sd:.4f}"
    return f"{spread.mean:{sign}.4f}{sd}"


def markdown(groups: Sequence[Group]) -> str:
    """The table as Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, *rows(groups))]
    return "\n".join([lines[0], "|---" * len(HEAD) + "|", *lines[1:]])
