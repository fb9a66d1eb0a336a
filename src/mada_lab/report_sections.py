"""The sections of a report, one function each: from runs to HTML."""

import json
from collections.abc import Sequence

from mada_lab.outcome import Outcome, outcome
from mada_lab.plots.coefficients import coefficient_panels, hypergradient_panels, moving, names_of
from mada_lab.plots.curves import SMOOTHING
from mada_lab.plots.losses import MARKED, training_loss, validation_accuracy, validation_loss
from mada_lab.plots.style import line_style, svg
from mada_lab.plots.toy import is_toy, toy_panels
from mada_lab.record import Json, Run
from mada_lab.report_page import NONE, comparison, figure, folded, line_sample, number, table, text
from mada_lab.strict_json import flatten

Runs = Sequence[Run]

_ELSEWHERE = ("config", "format_version", "optimizer", "initial_coefficients")
_PANELS = 24
"""At most so many panels of a kind: a run may learn a set of coefficients per tensor."""


def header(title: str, runs: Runs) -> str:
    """The page's heading, and what was trained on what."""
    data = sorted({str(name) for run in runs if (name := _data_name(run)) is not None})
    lead = f"{', '.join(sorted({outcome(run).optimizer for run in runs}))}" + (f" on {', '.join(data)}" if data else "")
    return f'<header>\n<h1>{text(title)}</h1>\n<p class="lead">{text(lead)}</p>\n</header>'


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


def coefficients(runs: Runs) -> list[str]:
    """Trajectories, and where they began and ended."""
    if not names_of(runs, "coefficients"):
        return ["<p>None of the runs logged coefficients.</p>"]
    panels = coefficient_panels(runs, _PANELS)
    if not panels:
        return ["<p>None of the coefficients moved, nor was learned.</p>", _endpoints(runs)]
    pictures = [
        svg(panel, f"coefficient-{i}", f"Coefficient {name} over optimizer steps")
        for i, (name, panel) in enumerate(panels.items())
    ]
    caption = (
        "Value of each coefficient over optimizer steps. The ring and the dotted line mark the initial value. Each "
        "panel has a vertical range of its own, whose full height is printed above it and is never under 0.01 "
        f"(but for lr), so that a coefficient at rest looks it.{_missing(runs, 'coefficients')}"
    )
    return [_legend(runs, "coefficients"), figure(pictures, caption, "small"), _endpoints(runs)]


def _endpoints(runs: Runs) -> str:
    names = names_of(runs, "coefficients")
    rows = []
    for label, run in zip(labels(runs), runs, strict=True):
        initial, final = run.initial_coefficients(), run.final_coefficients()
        rows.append([label, *(_endpoint(name, initial, final) for name in names)])
    return table(["run", *map(text, names)], rows, "Initial → final coefficients.")


def _endpoint(name: str, initial: Json, final: Json) -> str:
    if name not in initial and name not in final:
        return NONE
    return f"{number(initial.get(name), '.4f')} → {number(final.get(name), '.4f')}"


def hypergradients(runs: Runs) -> list[str]:
    """What moved the coefficients."""
    if not names_of(runs, "hypergradients"):
        return ["<p>None of the runs logged hypergradients.</p>"]
    panels = hypergradient_panels(runs, _PANELS)
    if not panels:
        return ["<p>All hypergradients are 0: nothing was learned.</p>"]
    pictures = [
        svg(panel, f"hypergradient-{i}", f"Hypergradient of {name} over optimizer steps")
        for i, (name, panel) in enumerate(panels.items())
    ]
    caption = (
        "Derivative of the training loss in each coefficient, in nats per unit of the coefficient: negative values "
        f"drive it up. Light: each logged value; strong: its centred mean over 1/{SMOOTHING} of the log steps. The "
        "range above each panel holds 99&nbsp;% of the values; how many lie beyond is printed beside it."
        f"{_missing(runs, 'hypergradients')}"
    )
    return [_legend(runs, "hypergradients"), figure(pictures, caption, "small")]


def _legend(runs: Runs, group: str) -> str:
    items = [f"<li>{label}</li>" for label, run in zip(labels(runs), runs, strict=True) if run.names(group)]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _missing(runs: Runs, group: str) -> str:
    names = [text(run.name) for run in runs if not run.names(group)]
    shown = moving(runs, group)
    at_rest = [text(name) for name in names_of(runs, group) if name not in shown]
    resting = f" At rest in all runs: {', '.join(at_rest[:_PANELS])}." if at_rest else ""
    more = len(shown) - _PANELS
    left_out = resting + (f" {more} more panels are left out." if more > 0 else "")
    return left_out + (f" Without {group}: {', '.join(names)}." if names else "")


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


def labels(runs: Runs) -> list[str]:
    """Each run's name behind a sample of its line."""
    looks = [line_style(i) for i in range(len(runs))]
    samples = [line_sample(look["color"], look["linestyle"]) for look in looks]
    return [
        f'<span class="run">{sample}<span>{text(run.name)}</span></span>'
        for sample, run in zip(samples, runs, strict=True)
    ]
