"""`mada-lab sweep`."""

import sys
from pathlib import Path
from typing import Any, Self

from mada_lab.cli.bars import FittedBar, shortened
from mada_lab.cli.words import flag, number, say, take, whole_number
from mada_lab.config.keys import TrainConfig
from mada_lab.errors import ConfigError, visible

USAGE = """\
sweep [CONFIG.toml|CONFIG.py] [--key=value ...] [--grid KEY=V1,V2,... ...] [--search KEY=LOW..HIGH[:log] ... --trials N]
      [--out DIR] [--storage FILE|URL] [--name NAME] [--grace SECONDS] [--retry-failed]
    train every point of a grid, or N draws of a search (optuna's TPE, on the validation loss), each as a run in
    DIR/runs; CONFIG.toml may have tables [grid], [search] and [sweep] (trials, out, storage, name, grace). Start it as
    often as you like, on as many machines: workers of one storage (DIR/sweep.journal, or a database) share the points,
    and take over those of a worker that was silent for SECONDS (60); with --storage alone a worker joins what is there
"""

MOST_TRIALS = 1_000_000
OPTIONS = ("trials", "out", "storage", "name", "grace")
TABLES = ("grid", "search", "sweep")


def run(words: list[str]) -> None:
    """`sweep` with its options; a worker, until all points are settled."""
    retry, words = flag(words, "--retry-failed")
    tables, base = read(words)
    from mada_lab.experiments.sweeps import storage as storages
    from mada_lab.experiments.sweeps.join import GRACE, claims_of, join
    from mada_lab.experiments.sweeps.worker import Worker

    storages.quiet()
    options = tables["sweep"]
    out = Path(options.get("out", base.out_dir))
    given = _plan(tables, base)
    storage = storages.open_storage(options.get("storage", str(out / "sweep.journal")))
    plan, study = join(given, storage, options.get("name", "sweep"), base)
    claims = claims_of(study, float(options.get("grace", GRACE)))
    if retry:
        print(f"{claims.retry_failed()} failed points are tried again", file=sys.stderr)
    with SweepBar() as bar:
        results = Worker(plan, claims, out / "runs", bar).work()
    failed = [result for result in results if result.error is not None]
    print("\n".join(f"failed: {result.name}: {result.error}" for result in failed), end="\n" if failed else "")
    print(f"sweep: {len(results) - len(failed)} of {plan.size} points, {len(failed)} failed: {out / 'runs'}")


def _plan(tables: dict[str, Any], base: TrainConfig) -> Any:
    from mada_lab.experiments.sweeps.plan import Plan, require_used

    if not tables["grid"] and not tables["search"] and not tables["sweep"].get("trials"):
        return None
    plan = Plan(base, grid=tables["grid"], search=tables["search"], trials=int(tables["sweep"].get("trials", 0)))
    plan.check()
    require_used([plan])
    return plan


def read(words: list[str]) -> tuple[dict[str, dict[str, Any]], TrainConfig]:
    """The tables [grid], [search], [sweep], and the keys that all runs share.

    Raises:
        ConfigError: An unknown key or option, or a value of the wrong type.
    """
    from mada_lab.config import parsing

    file = words[:1] if words and not words[0].startswith("-") else []
    where = file[0] if file else "the command line"
    given, rest = take(words[len(file) :], (*OPTIONS, "grid", "search"))
    asked = parsing.request([*file, *rest], tables=TABLES)
    say(asked.notes)
    tables = {name: dict(asked.tables.get(name, {})) for name in TABLES}
    tables["sweep"] |= {name: texts[-1] for name, texts in given.items() if name in OPTIONS}
    for name in ("grid", "search"):
        tables[name] |= {key: axis for key, _, axis in (text.partition("=") for text in given.get(name, []))}
    unknown = [key for key in tables["sweep"] if key not in OPTIONS]
    if unknown:
        raise ConfigError(f"sweep, in {where}: expected one of {', '.join(OPTIONS)}, got {unknown[0]}; correct it")
    texts = {f"--{name}": str(tables["sweep"][name]) for name in ("trials", "grace") if name in tables["sweep"]}
    whole_number("sweep", texts, "--trials", 1, 1, MOST_TRIALS)
    number("sweep", "--grace", texts.get("--grace", 1))
    base = parsing.configured(asked, TrainConfig)
    return {**tables, "grid": _axes(tables["grid"]), "search": _searched(tables["search"])}, base


def _axes(grid: dict[str, Any]) -> dict[str, list[Any]]:
    from mada_lab.config import parsing
    from mada_lab.experiments.sweeps.plan import axis

    return {
        key: [parsing.typed({key: x}, "the sweep's grid")[key] for x in given]
        if isinstance(given, list)
        else axis(key, str(given))
        for key, given in grid.items()
    }


def _searched(search: dict[str, Any]) -> dict[str, Any]:
    """Ranges as they are, and lists of choices."""
    from mada_lab.experiments.sweeps.plan import axis

    return {
        key: given if ".." in given else axis(key, given) if isinstance(given, str) else _axes({key: given})[key]
        for key, given in search.items()
    }


class SweepBar:
    """A bar over the points of a sweep, and where this worker is in its own."""

    def __init__(self) -> None:
        self._bar = FittedBar(desc="sweep", unit="point", dynamic_ncols=True, mininterval=0.5)
        self._name, self._steps, self._failed = "", 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()

    def standing(self, settled: int, failed: int, size: int) -> None:
        """Moves the bar to what all workers have settled."""
        self._bar.total, self._failed = size, failed
        if self._bar.n == 0:
            self._bar.initial = settled  # done before: no part of this worker's rate
        self._bar.n = settled
        self._bar.refresh()

    def begins(self, name: str, config: TrainConfig) -> None:
        """Names the point in hand."""
        self._name, self._steps = visible(name), config.max_iters

    def step(self, done: int) -> None:
        """Shows the step of the point in hand."""
        failed = f", {self._failed} failed" if self._failed else ""
        names = (shortened(self._name, length) for length in (len(self._name), 48, 32, 24, 16, 8))
        self._bar.values = tuple(f"{name} {done}/{self._steps}{failed}" for name in names)
        self._bar.update(0)

    def told(self, message: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(visible(message), file=sys.stderr)
