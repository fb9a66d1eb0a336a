"""Optimizers on one task with several seeds and the same budget: the plan of the runs, and the table of results."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mada_lab.config.keys import TrainConfig
from mada_lab.errors import ConfigError
from mada_lab.experiments.seeds import NOTHING, final_loss, finished, mean_sd, run_name
from mada_lab.experiments.sweeps.plan import Plan, Values, require_possible
from mada_lab.records.outcome import outcome
from mada_lab.records.run_record import Run
from mada_lab.reports.html import Table

Cases = Mapping[str, Values]

#: The optimizers that are compared by default; the others are compared with the first.
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
#: Names that stand for an optimizer with keys. A source `@CASE` is the run of that case with the same seed.
ALIASES: dict[str, Values] = {"mada_fs": {"optimizer": "mada", "coefficients_from": "@mada"}}
SOURCE = "coefficients_from"


def plans(base: TrainConfig, cases: Cases, seeds: Sequence[int]) -> list[Plan]:
    """The runs as one plan or two: those that need no other run, then those that take coefficients from another.

    Raises ConfigError for a wrong key or value, and for a source that isn't compared.
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
    require_possible(parts)
    return parts


def _with_sources(cases: Cases, seeds: Sequence[int]) -> dict[str, Values]:
    return {
        run_name(name, seed): values | {"seed": seed, SOURCE: f"@{run_name(values[SOURCE][1:], seed)}"}
        for name, values in cases.items()
        for seed in seeds
    }


@dataclass(frozen=True)
class Group:
    """The runs of one case, in the order of the seeds; None where one is missing or failed."""

    name: str
    runs: list[Run | None]

    def losses(self, which: str) -> list[float]:
        """Final "training" or "validation" loss per seed; NaN where there is none."""
        return [math.nan if run is None else final_loss(run, which) for run in self.runs]

    def differences(self, first: "Group", which: str) -> list[float]:
        """The paired differences from `first`, seed by seed."""
        return [a - b for a, b in zip(self.losses(which), first.losses(which), strict=True)]


def read_groups(out: Path, cases: Iterable[str], seeds: Sequence[int]) -> list[Group]:
    """The finished runs under `out`. Raises ConfigError if a record is malformed."""
    return [Group(case, [finished(out / run_name(case, seed)) for seed in seeds]) for case in cases]


def table(groups: Sequence[Group]) -> Table:
    """Mean ± standard deviation over seeds, and paired differences from the first group."""
    return Table(HEAD, [_row(group, groups[0]) for group in groups], CAPTION)


PAIRED = ("difference", "lower in")
HEAD = ("optimizer", "validation loss", *PAIRED, "training loss", *PAIRED, "failed", "ms per step")
CAPTION = (
    "Losses in nats: mean ± standard deviation over seeds. Differences are paired: from the first optimizer's run of "
    "the same seed; “lower in” counts the seeds in which the loss is below that. Failed: no finite final loss."
)


def _row(group: Group, first: Group) -> list[str]:
    cells = [group.name]
    for which in ("validation", "training"):
        cells.append(mean_sd(group.losses(which)))
        paired = group.differences(first, which)
        known = [x for x in paired if math.isfinite(x)]
        cells += ["", ""] if group is first else [mean_sd(paired, "+"), f"{sum(x < 0 for x in known)} of {len(known)}"]
    failed = sum(not math.isfinite(x) for x in group.losses("validation"))
    times = [x for run in group.runs if run is not None and (x := outcome(run).milliseconds_per_step) is not None]
    return [*cells, f"{failed} of {len(group.runs)}", f"{fmean(times):.1f}" if times else NOTHING]
