"""`mada-lab bench`."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mada_lab.errors import ConfigError

USAGE = """\
bench [--sections S1,S2,...] [--tasks T1,...] [--families F1,...] [--map-optimizers O1,...] [--seeds 1,2,...]
      [--map-seeds 1,2] [--trials N] [--workers N] [--out DIR] [--data-dir DIR] [--storage FILE|URL] [--grace SECONDS]
      [--device D] [--together N] [--quick]
    train small tasks with this library's defaults and with tuned optimizers, and write DIR/bench.html and DIR/bench.md;
    sections are defaults, tuned, lr_map, betas_map, hyper_lr, ablations. Finished runs stay, and stopped ones go on;
    workers, one core each, share the runs as in sweep. On a GPU: --device cuda --together 32 trains so many runs of a
    task side by side, their networks stacked. --quick: two tasks, a few steps, one seed, two trials
"""

OPTIONS = (
    "sections tasks families map-optimizers seeds map-seeds trials workers out data-dir storage grace device together "
    "worker"
).split()
GRACE = 30.0  # seconds; short, as the runs are


def run(words: list[str]) -> None:
    """`bench` with its options: the runs that are missing, and then the page."""
    from mada_lab.cli.words import flag, take, whole_number

    quick, rest = flag(words, "--quick")
    given, rest = take(rest, OPTIONS)
    if rest:
        raise ConfigError(f"bench: expected its options, got {rest[0]}; see `mada-lab --help`")
    options = {name: texts[-1] for name, texts in given.items()}
    workers = whole_number("bench", {"--workers": options.get("workers", "1")}, "--workers", 1, 1, 1024)
    alone = "worker" in options  # started by another, which writes the page
    with _others(words, 1 if alone else workers):
        bench = _bench(options, quick)
        tables = bench.work()
    if alone:
        return
    from mada_lab.experiments.bench.page import markdown, write_page
    from mada_lab.system.files import write_atomic

    memory = _memory(bench)
    text = markdown(tables, bench.scope, memory)
    write_atomic(bench.out / "bench.md", text)
    write_page(tables, bench.scope, memory, bench.failures(), bench.out / "bench.html")
    print(text)
    print("".join(f"failed: {line}\n" for line in bench.failures()), end="")
    print(f"bench: {(bench.out / 'bench.html').resolve()}")


def _bench(options: dict[str, str], quick: bool) -> Any:
    import torch

    from mada_lab.cli.sweep import SweepBar
    from mada_lab.cli.words import number, whole_number
    from mada_lab.compute import device
    from mada_lab.experiments.bench.bench import Bench
    from mada_lab.experiments.sweeps import storage as storages

    grace = number("bench", "--grace", options.get("grace", GRACE))
    together = whole_number("bench", {"--together": options.get("together", "1")}, "--together", 1, 1, 4096)
    torch.set_num_threads(1)  # a worker has one core, so that times and sums are the same on any machine
    storages.quiet()
    out = Path(options.get("out", "out/bench"))
    scope, tasks = read(options, quick)
    storage = storages.open_storage(options.get("storage", str(out / "bench.journal")))
    for task in tasks:
        device.choose(task.config)
    return Bench(tasks, scope, out, storage, SweepBar(), grace, together)


def _memory(bench: Any) -> dict[str, float]:
    """Bytes of state per parameter, by row, on the first task that has hidden matrices."""
    from mada_lab.experiments.bench.families import DEFAULTS, FAMILIES
    from mada_lab.experiments.bench.memory import state_bytes

    task = next((task for task in bench.tasks if task.matrices), None)
    if task is None:
        return {}
    tuned = {f"{name}, tuned": FAMILIES[name].trials(1)[0] for name in bench.scope.tuned(task)}
    wanted = {**(DEFAULTS if "defaults" in bench.scope.sections else {}), **tuned}
    found = {}
    for name, values in wanted.items():
        with suppress(ConfigError):  # a package that isn't installed: its runs are listed as failed
            found[name] = state_bytes(task.config, values)
    return found


def read(options: dict[str, str], quick: bool) -> tuple[Any, list[Any]]:
    """What is asked for, and the tasks whose data are there. Raises ConfigError."""
    from mada_lab.cli.words import whole_number
    from mada_lab.experiments.bench import tasks as known
    from mada_lab.experiments.bench.families import FAMILIES
    from mada_lab.experiments.bench.sections import FROM_BASE, SECTIONS, Scope
    from mada_lab.optimizers.catalog import NAMES

    usual = Scope()
    few = quick and not {"seeds", "map-seeds"} & set(options)
    names = {key: _chosen(options, key, allowed) for key, allowed in (("sections", SECTIONS), ("families", FAMILIES))}
    trials = whole_number("bench", {"--trials": options.get("trials", "2" if quick else "16")}, "--trials", 16, 1, 4096)
    scope = Scope(
        names["sections"],
        names["families"],
        trials,
        (1,) if few else _seeds(options, "seeds", usual.seeds),
        (1,) if few else _seeds(options, "map-seeds", usual.map_seeds),
        usual.rates[1::2] if quick else usual.rates,
        ((0.5, 0.9), (0.6, 0.999)) if quick else usual.betas,
        _chosen(options, "map-optimizers", (*NAMES, *FROM_BASE), usual.mapped),
    )
    wanted = _chosen(options, "tasks", known.TASKS, known.QUICK if quick else tuple(known.TASKS))
    return scope, list(_with_data([known.TASKS[name] for name in wanted], options, quick))


def _with_data(tasks: Sequence[Any], options: dict[str, str], quick: bool) -> Iterator[Any]:
    from mada_lab.experiments.bench import tasks as known

    place = options.get("data-dir", "data"), options.get("device", "cpu")
    for task in tasks:
        there = known.located(known.quick(task) if quick else task, *place)
        why = known.missing_data(there)
        if why is None:
            yield there
        else:
            print(f"note: task {task.name} is left out: {why}", file=sys.stderr)


def _chosen(options: dict[str, str], key: str, allowed: Any, usual: Sequence[str] | None = None) -> tuple[str, ...]:
    default = tuple(allowed) if usual is None else tuple(usual)
    names = tuple(options[key].split(",")) if key in options else default
    for name in names:
        if name not in allowed:
            what = f"expected some of {', '.join(allowed)}, got {name}; correct it"
            raise ConfigError(f"bench, option --{key}: {what}")
    return names


def _seeds(options: dict[str, str], key: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    from mada_lab.cli.words import seeds_of

    return tuple(seeds_of("bench", options[key], f"--{key}")) if key in options else usual


@contextmanager
def _others(words: list[str], workers: int) -> Iterator[None]:
    """Other workers on the same bench, ended by a signal if this one fails, and waited for in any case."""
    command = [sys.executable, "-m", "mada_lab", "bench", *words, "--worker=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    others = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(workers - 1)
    ]
    try:
        yield
    except BaseException:
        for other in others:
            other.terminate()
        raise
    finally:
        for other in others:
            other.wait()
