"""`mada-lab compare`."""

from argparse import Namespace
from typing import Any

from mada_lab.cli import workers
from mada_lab.config import parsing
from mada_lab.config.arguments import Arguments, seeds
from mada_lab.config.key_options import CONFIG
from mada_lab.config.keys import TrainConfig
from mada_lab.errors import ConfigError

Cases = dict[str, dict[str, Any]]


def arguments() -> Arguments:
    """What may be typed after `compare`, beside the keys of train."""
    does = (
        "Train several optimizers with several seeds, and compare their losses. OUT/compare.html has the losses, "
        "paired differences from the first optimizer, and figures. mada_fs is mada with nothing learned, at the final "
        f"coefficients of the mada run of its seed. Finished runs stay; workers share the runs as in `mada-lab sweep`. "
        f"{workers.KEYS} CONFIG.toml may have tables [optimizers.NAME] of keys, and [compare] with these options."
    )
    example = "mada-lab compare --optimizers adamw,mada:learning_rate=2e-3 --seeds=1,2 --max_iters=200"
    made = Arguments("compare", does, example, CONFIG, least=0)
    meaning = "Optimizers, each with keys of its own. (default: eleven, listed in docs/lab/compare.md)"
    made.option("optimizers", meaning, shown="NAME[:key=value...],...")
    made.option("seeds", "Seeds of the runs of each optimizer.", seeds, "1,2,3", "N,...")
    workers.add_worker_options(made)
    return made


def run(words: list[str]) -> None:
    """`compare` with its options: the runs that are missing, and then the page."""
    given, cases, base = read(words)
    from mada_lab.experiments.comparison.compare import plans, read_groups, table
    from mada_lab.experiments.comparison.page import final, overlay, page
    from mada_lab.experiments.sweeps.worker import require_all
    from mada_lab.plots.save import save

    out = workers.folder_of(given, base, "compare")
    parts = plans(base, cases, given.seeds)
    results = workers.work(dict(zip(("compare", "fixed"), parts, strict=False)), given, base, out, "compare")
    groups = read_groups(out / "runs", list(cases), given.seeds)
    page(groups).write(out / "compare.html")
    for name, figure in (("overlay", overlay(groups)), ("validation", final(groups, "validation"))):
        save(figure, out / f"{name}.svg")
    print(table(groups).markdown())
    print(f"comparison: {(out / 'compare.html').resolve()}")
    require_all(results)


def read(words: list[str]) -> tuple[Namespace, Cases, TrainConfig]:
    """The options, the optimizers with their keys, and the keys that all runs share. Raises ConfigError."""
    from mada_lab.experiments.comparison.compare import BASELINES

    given, request = workers.asked(arguments(), words, ("optimizers",))
    workers.require_no_axis(request, ("optimizer", "seed"))
    cases = request.tables.get("optimizers", {})
    if wrong := [name for name, keys in cases.items() if not isinstance(keys, dict)]:
        raise ConfigError(f"compare, [optimizers]: expected tables [optimizers.NAME], got the key {wrong[0]}")
    if given.optimizers:
        cases = dict(_case(text) for text in given.optimizers.split(","))
    return given, cases or BASELINES, parsing.configured(request, TrainConfig)


def _case(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the keys in `NAME:key=value:...`."""
    name, *parts = text.split(":")
    pairs = [part.partition("=") for part in parts]
    return name, {key: parsing.parse_value(key, value) for key, _, value in pairs}
