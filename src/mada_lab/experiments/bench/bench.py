"""The bench: workers divide the runs of each task, in three parts, and read them as tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mada_lab.checkpoints.folder import path_of
from mada_lab.experiments.bench import sections
from mada_lab.experiments.bench.measure import Cell, Table, best, read_cells
from mada_lab.experiments.bench.sections import Runs, Scope
from mada_lab.experiments.bench.tasks import BenchTask
from mada_lab.experiments.seeds import run_name
from mada_lab.experiments.sweeps.join import GRACE, claims_of, join
from mada_lab.experiments.sweeps.plan import Plan
from mada_lab.experiments.sweeps.storage import Storage
from mada_lab.experiments.sweeps.worker import SweepListener, Worker
from mada_lab.system import files


@dataclass(frozen=True)
class Bench:
    """A bench, as one of its workers sees it."""

    tasks: Sequence[BenchTask]
    scope: Scope  #: the part of the bench that is asked for
    out: Path  #: folder of all runs
    storage: Storage  #: divides the runs among the workers
    listen: SweepListener  #: follows the worker
    grace: float = GRACE  #: seconds without a sign of life after which a worker counts as dead
    together: int = 1  #: runs that are trained side by side
    errors: dict[str, dict[str, str]] = field(default_factory=dict)  #: the error of each failed run, by task and run

    def work(self) -> list[Table]:
        """Computes the missing runs, beside other workers; returns the tables of all tasks. Raises as `Worker.work`."""
        return [self._table(task) for task in self.tasks]

    def _table(self, task: BenchTask) -> Table:
        groups = self._compute(task, "trials", sections.trials(self.scope, task))
        chosen = self._best(task)
        if "adamw" in chosen:
            groups |= self._compute(task, "runs", sections.after_tuning(self.scope, task, chosen))
            if "ablations" in self.scope.sections:
                groups |= self._compute(task, "followers", sections.followers(self.scope.seeds))
        cells = self._cells(task, groups)
        return Table(task.name, task.config.max_iters, cells, task.language, task.matrices)

    def folder(self, task: BenchTask) -> Path:
        """The folder of the task's runs."""
        return self.out / "runs" / task.name

    def _compute(self, task: BenchTask, part: str, runs: Runs) -> dict[str, tuple[int, ...]]:
        """Computes a part of the runs of a task; returns the seeds of each group."""
        plan = Plan(task.config, runs)
        plan.check()
        # The digest is in the name: with other seeds or sections, it is another plan, of runs that partly are there.
        joined, study = join(plan, self.storage, f"{task.name}-{part}-{plan.digest}", task.config)
        results = Worker(joined, claims_of(study, self.grace), self.folder(task), self.listen, self.together).work()
        self.errors.setdefault(task.name, {}).update({x.name: x.error for x in results if x.error is not None})
        for result in results:
            if result.folder is not None and result.error is None:  # finished: its checkpoint is of no more use
                files.discard(path_of(result.folder, 0).parent)
        return _groups(runs)

    def _best(self, task: BenchTask) -> dict[str, int]:
        """The number of the best trial of each family, without the families whose trials all failed."""
        numbers = {}
        for family in self.scope.tuned(task):
            names = [sections.trial_name(family, i) for i in range(self.scope.trials)]
            seeds = dict.fromkeys(names, (sections.TRIAL_SEED,))
            table = Table(task.name, task.config.max_iters, self._cells(task, seeds))
            good = best(table, [x for x in names if table.has(x) and not table.cells[x].diverged])
            if good is not None and math.isfinite(table.mean(good)):
                numbers[family] = names.index(good)
        return numbers

    def _cells(self, task: BenchTask, groups: dict[str, tuple[int, ...]]) -> dict[str, Cell]:
        return read_cells(self.folder(task), groups, self.errors.get(task.name, {}))

    def failures(self) -> list[str]:
        """A line for each run that failed."""
        return [f"{task}: {name}: {error}" for task, names in self.errors.items() for name, error in names.items()]


def _groups(runs: Runs) -> dict[str, tuple[int, ...]]:
    """The seeds of the runs of each group."""
    groups: dict[str, tuple[int, ...]] = {}
    for name, values in runs.items():
        group = name.removesuffix(run_name("", values["seed"]))
        groups[group] = (*groups.get(group, ()), values["seed"])
    return groups
