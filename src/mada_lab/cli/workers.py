"""What `sweep` and `compare` share: their options beside the keys of train, and how a worker joins."""

import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mada_lab.cli.bars import SweepBar, say
from mada_lab.config import parsing
from mada_lab.config.arguments import Arguments, number, path
from mada_lab.config.declarations import aliases
from mada_lab.config.keys import RunConfig, TrainConfig
from mada_lab.config.parsing import Request
from mada_lab.config.upstream.translation import keys_in
from mada_lab.errors import ConfigError

if TYPE_CHECKING:
    from mada_lab.experiments.sweeps.plan import Plan
    from mada_lab.experiments.sweeps.worker import Result

KEYS = "The keys of `mada-lab train` are options too: they hold for every run."


def add_worker_options(made: Arguments) -> None:
    """Adds the options of what several workers share."""
    command, topic = made.command, "workers"
    made.option("out", f"Folder of the results. (default: out_dir, or else out/{command})", path, shown="DIR")
    meaning = f"File or database that the workers share. (default: OUT/{command}.journal)"
    made.option("storage", meaning, shown="FILE|URL", topic=topic)
    meaning = "Seconds without a sign of life after which a worker counts as dead."
    made.option("grace", meaning, number(), "60", "SECONDS", topic)
    made.flag("retry-failed", "Try runs again that have failed.")


def asked(options: Arguments, words: Sequence[str], tables: Sequence[str] = ()) -> tuple[Namespace, Request]:
    """The options of a command that takes the keys of train too, and what is asked for by these keys.

    A TOML file may have a table of the command's name with its options, and further `tables`.

    Raises:
        ConfigError: An unknown key or option, or a wrong value.
    """
    file = list(words[:1]) if words and not words[0].startswith("-") else []
    _, rest = options.split(words[len(file) :])
    _require_no_misspelled(options, rest)
    request = parsing.request([*file, *rest], tables=(options.command, *tables))
    say(request.notes)
    table = {f"--{name}": value for name, value in request.tables.get(options.command, {}).items()}
    if unknown := table.keys() - set(options.names()):
        options.refuse(min(unknown))
    texts = (f"{name}={','.join(map(str, x)) if isinstance(x, list) else x}" for name, x in table.items())
    return options.split([*texts, *words[len(file) :]])[0], request


def require_no_axis(request: Request, axes: Iterable[str]) -> None:
    """Raises ConfigError if the command line gives all runs a value of a key in `axes`, in which they differ."""
    given = keys_in(request.words)
    for key in sorted(given.keys() & set(axes)):
        what = f"expected no value for all runs, which differ in {key}, got one; leave it out"
        raise ConfigError(f"--{key}={given[key]}: {what}")


def _require_no_misspelled(options: Arguments, words: Iterable[str]) -> None:
    """Raises ConfigError for a word that is like an option of the command, and less like a key of train."""
    from mada_optim.checks import nearest

    keys, known = {f"--{key}" for key in parsing.keys(TrainConfig)}, {f"--{name}" for name in aliases(TrainConfig)}
    for name in (word.partition("=")[0] for word in words if word.startswith("--")):
        if name not in keys | known and nearest(name, keys.union(options.names())) in options.names():
            options.refuse(name)


def folder_of(given: Namespace, base: RunConfig, command: str) -> Path:
    """The folder of the results."""
    return given.out or Path(base.out_dir or f"out/{command}")


def work(
    plans: "Mapping[str, Plan | None]", given: Namespace, base: RunConfig, out: Path, command: str
) -> "list[Result]":
    """Trains the points of plans, one plan after the other, beside other workers, until all points are settled.

    Args:
        plans: The plans by the names that they have in the storage; None is the plan that the storage has.
        given: The options of a worker.
        base: The keys that all runs share.
        out: Folder of the results.
        command: Name of the command.

    Raises:
        ConfigError: The storage can't be opened, or has another plan of this name.
        DataError: A data set is missing. Then nothing is written.
    """
    from mada_lab.experiments.sweeps import storage
    from mada_lab.experiments.sweeps.join import claims_of, join
    from mada_lab.experiments.sweeps.plan import require_data
    from mada_lab.experiments.sweeps.worker import Worker

    if wanted := [plan for plan in plans.values() if plan is not None]:
        require_data(wanted)
    shared = storage.open_storage(given.storage or str(out / f"{command}.journal"))
    results = []
    for name, planned in plans.items():
        plan, study = join(planned, shared, name, base)
        claims = claims_of(study, given.grace)
        if given.retry_failed:
            print(f"{claims.retry_failed()} failed points are tried again", file=sys.stderr)
        with SweepBar(command) as bar:
            results += Worker(plan, claims, out / "runs", bar).work()
    return results
