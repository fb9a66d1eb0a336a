"""`mada-lab compare`."""

from pathlib import Path
from typing import Any

from mada_lab.config.keys import TrainConfig
from mada_lab.errors import ConfigError

USAGE = """\
compare [CONFIG.toml|CONFIG.py] [--key=value ...] [--optimizers NAME[:key=value...],...] [--seeds 1,2,3] [--out DIR]
        [--storage FILE|URL] [--grace SECONDS] [--retry-failed]
    train each optimizer with each seed, and write DIR/compare.html: losses, paired differences from the first
    optimizer, figures. CONFIG.toml may have tables [optimizers.NAME] of keys, and [compare] (seeds, out, ...). mada_fs
    is mada with nothing learned, at the final coefficients of the mada run of its seed. Finished runs stay; workers
    share as in sweep
"""

OPTIONS = ("optimizers", "seeds", "out", "storage", "grace")


def run(words: list[str]) -> None:
    """`compare` with its options: the runs that are missing, and then the page."""
    from mada_lab.cli.sweep import SweepBar
    from mada_lab.cli.words import flag

    retry, words = flag(words, "--retry-failed")
    options, cases, base = read(words)
    from mada_lab.experiments.comparison.compare import markdown, plans, read_groups
    from mada_lab.experiments.comparison.page import final, overlay, write_page
    from mada_lab.experiments.sweeps import storage as storages
    from mada_lab.experiments.sweeps.join import GRACE, claims_of, join
    from mada_lab.experiments.sweeps.worker import Worker
    from mada_lab.plots.image import save

    storages.quiet()
    out = Path(options.get("out", base.out_dir))
    parts = plans(base, cases, options["seeds"])
    storage = storages.open_storage(options.get("storage", str(out / "compare.journal")))
    for name, plan in zip(("compare", "fixed"), parts, strict=False):
        joined, study = join(plan, storage, name, base)
        claims = claims_of(study, float(options.get("grace", GRACE)))
        if retry:
            claims.retry_failed()
        with SweepBar() as bar:
            Worker(joined, claims, out / "runs", bar).work()
    groups = read_groups(out / "runs", list(cases), options["seeds"])
    write_page(groups, out / "compare.html")
    for name, figure in (("overlay", overlay(groups)), ("validation", final(groups, "validation"))):
        save(figure, out / f"{name}.svg")
    print(markdown(groups))
    print(f"comparison: {(out / 'compare.html').resolve()}")


def read(words: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]], TrainConfig]:
    """The options, the optimizers with their keys, and the keys that all runs share. Raises ConfigError."""
    from mada_lab.cli.words import number, say, seeds_of, take
    from mada_lab.config import parsing
    from mada_lab.experiments.comparison.compare import BASELINES

    file = words[:1] if words and not words[0].startswith("-") else []
    where = file[0] if file else "the command line"
    given, rest = take(words[len(file) :], OPTIONS)
    asked = parsing.request([*file, *rest], tables=("optimizers", "compare"))
    say(asked.notes)
    cases, options = asked.tables.get("optimizers", {}), asked.tables.get("compare", {})
    options |= {name: texts[-1] for name, texts in given.items()}
    unknown = [key for key in options if key not in OPTIONS]
    if unknown or not all(isinstance(keys, dict) for keys in cases.values()):
        what = f"expected [compare] with {', '.join(OPTIONS)}, and [optimizers.NAME]"
        raise ConfigError(f"compare, in {where}: {what}, got {', '.join(unknown) or 'no tables'}; correct it")
    if "optimizers" in options:
        cases = dict(_case(text) for text in str(options["optimizers"]).split(","))
    base = parsing.configured(asked, TrainConfig)
    number("compare", "--grace", options.get("grace", 1))
    options["seeds"] = seeds_of("compare", options.get("seeds", [1, 2, 3]))
    return options, cases or BASELINES, base


def _case(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the keys in `NAME:key=value:...`."""
    from mada_lab.config import parsing

    name, *parts = text.split(":")
    pairs = [part.partition("=") for part in parts]
    return name, {key: parsing.parse_value(key, value) for key, _, value in pairs}
