"""The sections of any report: results, losses, configuration and origin of runs."""

import json
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mada_lab.plots.curves import SMOOTHING
from mada_lab.plots.losses import MARKED, training_loss, validation_accuracy, validation_loss
from mada_lab.records.outcome import Outcome, outcome
from mada_lab.records.run_record import Json, Run
from mada_lab.reports.html import Figures, Folded, Listing, Part, Section, Table, Text, number
from mada_lab.reports.runs import labels, sentence
from mada_lab.system.strict_json import flatten

Runs = Sequence[Run]

_ELSEWHERE = ("config", "format_version", "optimizer", "method", "initial_coefficients")
_RESULTS = (
    "Losses in nats, lower is better. “vs. first run” is the run's final validation loss minus that of the first run, "
    "as measured, without an estimate of the variation between seeds. Time includes evaluations."
)


def introduction(runs: Runs) -> list[Part]:
    """The data that the runs were trained on, and a sentence about each run."""
    data = sorted({str(name) for run in runs if (name := _data_name(run)) is not None})
    lead: list[Part] = [Text(f"Trained on {', '.join(data)}.", "lead")] if data else []
    return [*lead, Listing([(label, sentence(run)) for label, run in zip(labels(runs), runs, strict=True)])]


def _data_name(run: Run) -> object:
    data = run.manifest.get("data")
    name = data.get("name") if isinstance(data, dict) else data
    return run.manifest.get("config", {}).get("dataset") if name is None else name


def have_losses(runs: Runs) -> bool:
    """Whether a run has losses, or has no row yet."""
    return any(not run.rows or any(run.series(key)[0] for key in ("train_loss", "val_loss")) for run in runs)


def results(runs: Runs) -> Section:
    """The table of final losses, times and memory."""
    outcomes = [outcome(run) for run in runs]
    columns = _columns(outcomes)
    rows = [[label, *values] for label, *values in zip(labels(runs, state=True), *columns.values(), strict=True)]
    return Section("Results", [Table(["run", *columns], rows, _RESULTS)] if have_losses(runs) else [])


def _columns(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """The cells of each column by its head."""
    known = any(x.val_accuracy is not None for x in outcomes)
    accuracy = {"final\naccuracy": [number(x.val_accuracy, ".2%") for x in outcomes]} if known else {}
    return {
        "optimizer": [x.optimizer for x in outcomes],
        "steps": [number(x.steps, ",d") for x in outcomes],
        "final\ntraining loss": [number(x.train_loss, ".4f") for x in outcomes],
        "final\nvalidation loss": [number(x.val_loss, ".4f") for x in outcomes],
        **accuracy,
        "vs.\nfirst run": [number(None if x is outcomes[0] else _difference(x, outcomes[0]), "+.4f") for x in outcomes],
        "best\nvalidation loss": [number(x.best_val_loss, ".4f") for x in outcomes],
        "time\n(s)": [number(x.seconds, ",.1f") for x in outcomes],
        "ms\nper step": [number(x.milliseconds_per_step, ",.1f") for x in outcomes],
        "peak memory\n(GiB)": [number(x.peak_memory and x.peak_memory / 2**30, ".2f") for x in outcomes],
    }


def _difference(one: Outcome, first: Outcome) -> float | None:
    return None if one.val_loss is None or first.val_loss is None else one.val_loss - first.val_loss


def losses(runs: Runs) -> Section:
    """The curves of training and validation loss, and of accuracy if there is one."""
    caption = (
        f"Training loss: each logged value (light), and its centered mean over 1/{SMOOTHING} of the log steps "
        f"(strong). Validation loss: a marker at each evaluation, up to {MARKED} of them. Both figures have one "
        "vertical range, that of the losses after the first 10% of the steps; earlier and diverged "
        "values lie above it. Gaps: losses that were not finite."
    )
    if any(run.series("val_accuracy")[0] for run in runs):
        caption += " Validation accuracy: share of right answers at each evaluation."
    drawn = {f"{name} over optimizer steps": figure for name, figure in loss_figures(runs).items()}
    return Section("Losses", [Figures(drawn, caption)] if drawn else [])


def loss_figures(runs: Runs) -> Mapping[str, Figure]:
    """The curves by name; none if no run has losses."""
    if not have_losses(runs):
        return {}
    figures = {"Training loss": training_loss(runs), "Validation loss": validation_loss(runs)}
    if any(run.series("val_accuracy")[0] for run in runs):
        figures["Validation accuracy"] = validation_accuracy(runs)
    return figures


def configuration(runs: Runs) -> Section:
    """The keys in which the runs differ, and the others folded."""
    values = _by_key([run.manifest.get("config", {}) for run in runs])
    different = {key: row for key, row in values.items() if any(x != row[0] for x in row)}
    same = {key: row for key, row in values.items() if key not in different}
    parts: list[Part] = []
    if different:
        parts.append(_keys(runs, different, "Keys in which the runs differ; marked: other than the first."))
    elif len(runs) > 1:
        parts.append(Text("The configurations are the same."))
    if same:
        which = "other keys, the same in all runs" if len(runs) > 1 else "keys"
        parts.append(Folded(f"{len(same)} {which}", _keys(runs, same)))
    return Section("Configuration", parts or [Text("No configuration was recorded.")])


def origin(runs: Runs) -> Section:
    """The rest of the manifests: versions, commit, seed, hashes of the data."""
    rest = [{key: x for key, x in run.manifest.items() if key not in _ELSEWHERE} for run in runs]
    caption = "Versions, commit, seed, size of the model, and SHA-256 of each split of the data, recorded at the start."
    return Section("Origin", [_keys(runs, _by_key([flatten(part) for part in rest]), caption)])


def _keys(runs: Runs, values: Mapping[str, Sequence[str | None]], caption: str = "") -> Table:
    """A table of keys by runs; None is what a run lacks."""
    return Table(["key", *labels(runs)], [[key, *row] for key, row in values.items()], caption, "keys")


def _by_key(parts: Sequence[Json]) -> dict[str, list[str | None]]:
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: [_shown(part[key]) if key in part else None for part in parts] for key in keys}


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
