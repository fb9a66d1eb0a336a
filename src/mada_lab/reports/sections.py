"""The sections of a report, one function each: from runs to HTML."""

import json
from collections.abc import Sequence

from mada_lab.plots.curves import SMOOTHING
from mada_lab.plots.losses import MARKED, training_loss, validation_accuracy, validation_loss
from mada_lab.plots.style import svg
from mada_lab.plots.toy import is_toy, toy_panels
from mada_lab.records.outcome import Outcome, outcome
from mada_lab.records.run_record import Json, Run
from mada_lab.reports.html import comparison, figure, folded, number, table, text
from mada_lab.reports.runs import labels, sentences
from mada_lab.system.strict_json import flatten

Runs = Sequence[Run]

_ELSEWHERE = ("config", "format_version", "optimizer", "method", "initial_coefficients")


def header(title: str, runs: Runs) -> str:
    """The page's heading, what was trained on, and what each run is."""
    data = sorted({str(name) for run in runs if (name := _data_name(run)) is not None})
    lead = f'<p class="lead">Trained on {text(", ".join(data))}.</p>\n' if data else ""
    return f"<header>\n<h1>{text(title)}</h1>\n{lead}{sentences(runs)}\n</header>"


def _data_name(run: Run) -> object:
    data = run.manifest.get("data")
    name = data.get("name") if isinstance(data, dict) else data
    return run.manifest.get("config", {}).get("dataset") if name is None else name


def results(runs: Runs) -> str:
    """The headline table; nothing where no run has losses."""
    if all(map(is_toy, runs)):
        return ""
    head = ["run", "optimizer", "steps", "final<br>training loss", "final<br>validation loss", "vs.<br>first run"]
    head += ["best<br>validation loss", "time<br>(s)", "ms<br>per step", "peak memory<br>(GiB)"]
    found = [outcome(run) for run in runs]
    rows = [
        [label + _state(run), *_numbers(it, found[0] if i else None)]
        for i, (label, run, it) in enumerate(zip(labels(runs), runs, found, strict=True))
    ]
    if any(it.val_accuracy is not None for it in found):
        head.insert(5, "final<br>accuracy")
        for row, it in zip(rows, found, strict=True):
            row.insert(5, number(it.val_accuracy, ".2%"))
    caption = (
        "Losses in nats, lower is better. “vs. first run” is the run's final validation loss less that of the first "
        "run, as measured, without an estimate of the variation between seeds. Time includes evaluations."
    )
    return table(head, rows, caption)


def _state(run: Run) -> str:
    return "" if run.summary else '<span class="badge">no summary: still going, or stopped; latest values</span>'


def _numbers(it: Outcome, first: Outcome | None) -> list[str]:
    both = first is not None and it.val_loss is not None and first.val_loss is not None
    difference = it.val_loss - first.val_loss if both else None  # type: ignore[union-attr, operator]
    memory = None if it.peak_memory is None else it.peak_memory / 2**30
    return [
        text(it.optimizer),
        number(it.steps, ",d"),
        number(it.train_loss, ".4f"),
        number(it.val_loss, ".4f"),
        number(difference, "+.4f"),
        number(it.best_val_loss, ".4f"),
        number(it.seconds, ",.1f"),
        number(it.milliseconds_per_step, ",.1f"),
        number(memory, ".2f"),
    ]


def regret(runs: Runs) -> list[str]:
    """What methods did in an online problem; nothing if none of the runs is one."""
    toys = [(label, run) for label, run in zip(labels(runs), runs, strict=True) if is_toy(run)]
    if not toys:
        return []
    pictures = [svg(panel, name, f"{name} over time") for name, panel in toy_panels(runs).items()]
    caption = "Plays are in [-1, 1], the best fixed one is -1; average regret is what was paid above it, over t."
    rows = [[label + _state(run), *_ends(run)] for label, run in toys]
    return [figure(pictures, caption, "wide"), table(["run", "steps", "x", "average regret", "time<br>(s)"], rows)]


def _ends(run: Run) -> list[str]:
    last = run.rows[-1]
    keys = {"step": ",d", "iterate": ".4f", "average_regret": ".4f", "seconds": ",.1f"}
    return [number(last.get(key), spec) for key, spec in keys.items()]


def losses(runs: Runs) -> str:
    """Both loss figures, and that of the accuracy where there is one; nothing where no run has losses."""
    if all(map(is_toy, runs)):
        return ""
    caption = (
        f"Training loss: each logged value (light), and its centred mean over 1/{SMOOTHING} of the log steps (strong). "
        f"Validation loss: a marker at each evaluation, up to {MARKED} of them. Both figures have one vertical range, "
        "that of the losses after the first 10&nbsp;% of the steps; earlier and diverged values lie above it. Gaps: "
        "losses that were not finite."
    )
    pictures = [
        svg(training_loss(runs), "training", "Training loss over optimizer steps"),
        svg(validation_loss(runs), "validation", "Validation loss over optimizer steps"),
    ]
    if any(run.series("val_accuracy")[0] for run in runs):
        caption += " Validation accuracy: share of right answers at each evaluation."
        pictures.append(svg(validation_accuracy(runs), "accuracy", "Validation accuracy over optimizer steps"))
    return figure(pictures, caption, "wide")


def configuration(runs: Runs) -> list[str]:
    """The keys in which the runs differ, and all the others folded."""
    values = _by_key(runs, [run.manifest.get("config", {}) for run in runs])
    different = {key: row for key, row in values.items() if any(x != row[0] for x in row)}
    same = {key: row for key, row in values.items() if key not in different}
    parts = []
    if different:
        parts.append(
            comparison(labels(runs), different, "Keys in which the runs differ; marked: other than the first.")
        )
    elif len(runs) > 1:
        parts.append("<p>The configurations are the same.</p>")
    if same:
        which = "other keys, the same in all runs" if len(runs) > 1 else "keys"
        parts.append(folded(f"{len(same)} {which}", comparison(labels(runs), same)))
    return parts or ["<p>No configuration was recorded.</p>"]


def origin(runs: Runs) -> str:
    """What else the manifests say: versions, commit, seed, hashes of the data."""
    rest = [{key: x for key, x in run.manifest.items() if key not in _ELSEWHERE} for run in runs]
    caption = (
        "Versions, commit, seed, size of the model, and SHA-256 of each split of the data, as recorded at the start."
    )
    return comparison(labels(runs), _by_key(runs, [flatten(part) for part in rest]), caption)


def _by_key(runs: Runs, parts: list[Json]) -> dict[str, list[str | None]]:
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: [_shown(part[key]) if key in part else None for part in parts] for key in keys}


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
