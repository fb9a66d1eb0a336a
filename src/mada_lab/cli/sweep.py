"""`mada-lab sweep`."""

import shlex
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mada_lab.cli import workers
from mada_lab.config import parsing
from mada_lab.config.arguments import Arguments, whole
from mada_lab.config.key_options import CONFIG
from mada_lab.config.keys import TrainConfig
from mada_lab.errors import ConfigError, require_exists

if TYPE_CHECKING:
    from mada_lab.experiments.sweeps.plan import Plan
    from mada_lab.experiments.sweeps.worker import Result

MOST_TRIALS = 1_000_000
SHOWN = 10  # points in the table at the end


def arguments() -> Arguments:
    """What may be typed after `sweep`, beside the keys of train."""
    does = (
        "Train every point of a grid, or draws of a search. Each point is a run in OUT/runs. Start the command several "
        "times, on one machine or more: the workers share the points, and take over those of a worker that died. "
        f"{workers.KEYS} CONFIG.toml may have tables [grid], [search] and [sweep] with these options."
    )
    example = "mada-lab sweep --grid beta1=0.8,0.9 --grid beta2=0.9,0.99 --optimizer=mada --max_iters=200"
    made = Arguments("sweep", does, example, CONFIG, least=0)
    topic = "points"
    meaning = "Values of a key. Given several times, all combinations are trained."
    shown = "KEY=V1,V2,..."
    made.option("grid", meaning, _pair(shown), shown=shown, topic=topic, action="append")
    meaning = "Range or values of a key, from which TPE of optuna draws to lower the validation loss."
    shown = "KEY=LOW..HIGH[:log]"
    made.option("search", meaning, _pair(shown), shown=shown, topic=topic, action="append")
    made.option("trials", "Number of draws of a search.", whole(1, MOST_TRIALS), shown="N", topic=topic)
    workers.add_worker_options(made)
    made.option("name", "Name of the sweep in the storage.", default="sweep", topic="workers")
    return made


def run(words: list[str]) -> None:
    """`sweep` with its options: a worker, until all points are settled."""
    given, base = read(words)
    plan, out = _plan(given, base), workers.folder_of(given, base, "sweep")
    if plan is None and not given.storage and not (out / "sweep.journal").exists():
        raise ConfigError("sweep: expected points, got none; give --grid or --search")
    if plan is None and given.storage and "://" not in given.storage:
        require_exists(Path(given.storage), "--storage")
    from mada_lab.experiments.sweeps.worker import require_all

    results = workers.work({given.name: plan}, given, base, out, "sweep")
    failed = [result for result in results if result.error is not None]
    for line in (*(f"failed: {result.name}: {result.error}" for result in failed), *_best(results)):
        print(line)
    print(f"sweep: {len(results) - len(failed)} of {len(results)} points, {len(failed)} failed: {out / 'runs'}")
    print(f"`mada-lab report {shlex.quote(str(out))}` writes a page about them")
    require_all(results)


def _best(results: "Iterable[Result]") -> list[str]:
    """A table of the points with the lowest validation losses, and the best of them; nothing if all failed."""
    from mada_lab.reports.html import Table

    losses = sorted((result.loss, result.name, result.folder) for result in results if result.loss is not None)
    if not losses:
        return []
    table = Table(["point", "validation loss"], [[name, f"{loss:.4f}"] for loss, name, _ in losses[:SHOWN]])
    return [table.markdown(), f"best: {losses[0][2]}"]


def _plan(given: Namespace, base: TrainConfig) -> "Plan | None":
    """What is to be trained; None if a storage is to tell. Raises ConfigError unless every point is possible."""
    from mada_lab.experiments.sweeps.plan import Plan, require_possible

    if not given.grid and not given.search and given.trials is None:
        return None
    plan = Plan(base, grid=given.grid, search=given.search, trials=given.trials or 0)
    require_possible([plan])
    return plan


def read(words: list[str]) -> tuple[Namespace, TrainConfig]:
    """The options, with `grid` and `search` by key, and the keys that all runs share. Raises ConfigError."""
    given, request = workers.asked(arguments(), words, ("grid", "search"))
    grid, search = (
        {**request.tables.get(name, {}), **_by_key(name, getattr(given, name) or [])} for name in ("grid", "search")
    )
    workers.require_no_axis(request, {*grid, *search})
    given.grid = {key: _axis(key, values) for key, values in grid.items()}
    given.search = {key: x if ".." in x else _axis(key, x) for key, x in search.items()}
    return given, parsing.configured(request, TrainConfig)


def _by_key(option: str, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The values by key. Raises ConfigError if a key stands twice."""
    found, keys = dict(pairs), ", ".join(key for key, _ in pairs)
    if len(found) < len(pairs):
        raise ConfigError(f"sweep, option --{option}: expected each key once, got {keys}; give one list")
    return found


def _pair(shown: str) -> Callable[[str], tuple[str, str]]:
    """Reads a key and its values, which look like `shown`."""

    def read(given: str) -> tuple[str, str]:
        key, _, values = given.partition("=")
        if not key or not values:
            raise ArgumentTypeError(f"expected {shown}, got {given or 'nothing'}")
        return key, values

    return read


def _axis(key: str, values: Any) -> list[Any]:
    """The values of an axis, as text with commas between or as a list, each of the key's type."""
    from mada_lab.experiments.sweeps.plan import axis

    if isinstance(values, list):
        return [parsing.typed({key: x}, "the sweep's grid")[key] for x in values]
    return axis(key, str(values))
