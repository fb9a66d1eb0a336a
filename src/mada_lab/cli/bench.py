"""`mada-lab bench`."""

import os
import subprocess
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mada_lab.cli.bars import SweepBar, say
from mada_lab.config.arguments import Arguments, number, path, seeds, some_of, whole
from mada_lab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mada_lab.experiments.bench.bench import Bench
    from mada_lab.experiments.bench.sections import Scope
    from mada_lab.experiments.bench.tasks import BenchTask


def arguments() -> Arguments:
    """What may be typed after `bench`."""
    does = (
        "Train small tasks with default and with tuned optimizers, and write a page about them. OUT/bench.html and "
        "OUT/bench.md are the results. Finished runs stay; stopped ones go on. docs/results/bench.md has the tasks."
    )
    made = Arguments("bench", does, "mada-lab bench --quick --sections=defaults --tasks=digits_mlp --workers=2")
    topic = "scope"
    for name, meaning in (
        ("sections", "Some of defaults, tuned, lr_map, betas_map, hyper_lr and ablations. (default: all)"),
        (
            "tasks",
            "Some of digits_logistic, digits_mlp, digits_cnn, cifar_cnn, gpt_pydoc, gpt_shakespeare_small, "
            "gpt_shakespeare_large, gpt_wikitext_bpe, digits_noisy and digits_deterministic. (default: all; with "
            "--quick, digits_mlp and gpt_pydoc)",
        ),
        (
            "families",
            "Optimizers to tune: adamw, nadam, avgrad, adan, lion, yogi, hyperadam, prodigy, schedulefree, muon, "
            "normuon, soap, ademamix, mars or automuon. (default: all)",
        ),
        (
            "map-optimizers",
            "Optimizers in the map of learning rates. (default: adamw, automuon, autoadam, automuon_from_lr and "
            "autoadam_from_lr)",
        ),
    ):
        made.option(name, meaning, _some_known(name), None, "A,B,...", topic)
    for name, meaning in (
        ("seeds", "Seeds of all but the maps. (default: 1,2,3,4,5, or 1 with --quick)"),
        ("map-seeds", "Seeds of the maps. (default: 1,2, or 1 with --quick)"),
    ):
        made.option(name, meaning, seeds, None, "N,...", topic)
    meaning = "Draws for the tuning of each family. (default: 16, or 2 with --quick)"
    made.option("trials", meaning, whole(1, 4096), None, "N", topic)
    topic = "device and workers"
    made.option("device", "auto, cpu, cuda, cuda:1 or mps.", None, "cpu", "NAME", topic)
    meaning = "Runs of a task that are trained side by side, their networks stacked. 32 suits a GPU."
    made.option("together", meaning, whole(1, 4096), 1, "N", topic)
    made.option("workers", "Processes of one core each that share the runs.", whole(1, 1024), 1, "N", topic)
    meaning = "Seconds without a sign of life after which a worker counts as dead."
    made.option("grace", meaning, number(), "30", "SECONDS", topic)
    meaning = "File or database that the workers share. (default: OUT/bench.journal)"
    made.option("storage", meaning, None, None, "FILE|URL", topic)
    made.option("out", "Folder of the results.", path, "out/bench", "DIR")
    made.option("data-dir", "Folder of the data sets.", None, "data", "DIR")
    made.flag("quick", "Two tasks, few steps, one seed and two trials, to see that all of it runs.")
    made.flag("worker", SUPPRESS)  # of a process that another worker started: that one writes the page
    return made


def _some_known(option: str) -> Callable[[str], tuple[str, ...]]:
    """Reads some of the names that an option may have; these are looked up when the option is given."""
    return lambda given: some_of(*_known()[option])(given)


def _known() -> Mapping[str, tuple[str, ...]]:
    from mada_lab.experiments.bench.families import FAMILIES
    from mada_lab.experiments.bench.sections import FROM_BASE, SECTIONS
    from mada_lab.experiments.bench.tasks import TASKS
    from mada_lab.optimizers.catalog import NAMES

    return {
        "sections": SECTIONS,
        "tasks": tuple(TASKS),
        "families": tuple(FAMILIES),
        "map-optimizers": (*NAMES, *FROM_BASE),
    }


def run(words: list[str]) -> None:
    """`bench` with its options: the runs that are missing, and then the page."""
    given = arguments().read(words)
    bench = _bench(given)
    with _others(words, 1 if given.worker else given.workers):
        tables = bench.work()
    if given.worker:
        return
    from mada_lab.experiments.bench.page import markdown, page
    from mada_lab.system.files import write_atomic

    memory = _memory(bench)
    text = markdown(tables, bench.scope, memory)
    write_atomic(bench.out / "bench.md", text)
    page(tables, bench.scope, memory, bench.failures()).write(bench.out / "bench.html")
    print(text)
    print("".join(f"failed: {line}\n" for line in bench.failures()), end="")
    print(f"bench: {(bench.out / 'bench.html').resolve()}")


def _bench(given: Namespace) -> "Bench":
    import torch

    from mada_lab.compute import device
    from mada_lab.experiments.bench.bench import Bench
    from mada_lab.experiments.sweeps import storage as storages

    torch.set_num_threads(1)  # a worker has one core, so that times and sums are the same on any machine
    scope, tasks = read(given)
    if not tasks:
        raise DataError("bench, option --tasks: expected one whose data set is there, got none; see the notes above")
    for task in tasks:
        device.choose(task.config)
    storage = storages.open_storage(given.storage or str(given.out / "bench.journal"))
    return Bench(tasks, scope, given.out, storage, SweepBar("bench"), given.grace, given.together)


def _memory(bench: "Bench") -> dict[str, float]:
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


def read(given: Namespace) -> "tuple[Scope, list[BenchTask]]":
    """What is asked for, and the tasks whose data are there. Raises ConfigError."""
    from mada_lab.experiments.bench import tasks as known
    from mada_lab.experiments.bench.sections import Scope

    usual, quick = Scope(), given.quick
    few = quick and given.seeds is given.map_seeds is None
    scope = Scope(
        given.sections or usual.sections,
        given.families or usual.families,
        given.trials or (2 if quick else usual.trials),
        (1,) if few else tuple(given.seeds or usual.seeds),
        (1,) if few else tuple(given.map_seeds or usual.map_seeds),
        usual.rates[1::2] if quick else usual.rates,
        ((0.5, 0.9), (0.6, 0.999)) if quick else usual.betas,
        given.map_optimizers or usual.mapped,
    )
    found = []
    for name in given.tasks or (known.QUICK if quick else known.TASKS):
        task = known.quick(known.TASKS[name]) if quick else known.TASKS[name]
        task = known.located(task, given.data_dir, given.device)
        if why := known.missing_data(task):
            say([f"task {name} is left out: {why}"])
        else:
            found.append(task)
    return scope, found


@contextmanager
def _others(words: list[str], workers: int) -> Iterator[None]:
    """Other workers on the same bench, ended by a signal if this one fails, and waited for in any case."""
    command = [sys.executable, "-m", "mada_lab", "bench", *words, "--worker"]
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
