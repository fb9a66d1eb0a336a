"""The report: one self-contained HTML page about one run or several, from their records alone.

It loads nothing, runs no script, and depends on nothing but the records: the same records give the same bytes.
"""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from mada_lab.errors import ConfigError
from mada_lab.plots.style import printable
from mada_lab.records.outcome import distinct, outcome
from mada_lab.records.run_record import Run, read_run
from mada_lab.reports.coefficients import coefficients, hypergradients, trajectories
from mada_lab.reports.html import page, section
from mada_lab.reports.sections import configuration, header, losses, origin, regret, results
from mada_lab.system.files import make_folder, write_atomic


def write_report(folders: list[Path], out: Path) -> Path:
    """Writes the report about the runs in `folders` to `out`, and returns `out`.

    Raises:
        ConfigError: There is no folder, a record is missing or malformed, or `out` can't be written.
    """
    return write_page([read_run(folder) for folder in folders], out)


def write_page(runs: Sequence[Run], out: Path) -> Path:
    """Likewise about runs that were read already."""
    content = report(runs)
    try:
        make_folder(out.parent)
        write_atomic(out, content)
    except OSError as error:
        raise ConfigError(
            f"report, {out}: expected a file that can be written, got {error.strerror}; choose another place"
        ) from error
    return out


def report(runs: Sequence[Run]) -> str:
    """The page as text. The first run is the one that the others are compared with.

    Raises:
        ConfigError: There is no run.
    """
    if not runs:
        raise ConfigError("report, RUN: expected at least one run folder, got none; name the folders of the runs")
    runs = distinct(runs)
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"Comparison of {len(runs)} runs"
    body = [
        header(title, runs),
        *(section("Regret", *parts) for parts in [regret(runs)] if parts),
        *(section("Learned coefficients", *parts) for parts in [trajectories(runs)] if parts),
        *(section("Results", part) for part in [results(runs)] if part),
        *(section("Losses", part) for part in [losses(runs)] if part),
        section("Coefficients", *coefficients(runs)),
        section("Hypergradients", *hypergradients(runs)),
        section("Configuration", *configuration(runs)),
        section("Origin", origin(runs)),
    ]
    return page(title, body)


def headline(runs: Sequence[Run]) -> list[str]:
    """One line per run for a terminal: its validation loss, as it is."""
    return [_headline(run) for run in distinct(runs)]


def _headline(run: Run) -> str:
    found = outcome(run)
    steps, _ = run.series("val_loss")
    if found.val_loss is None:
        what = "no validation loss"
    else:
        value = f"{found.val_loss:.4f}" if isfinite(found.val_loss) else "not finite"
        what = f"final validation loss {value}" if run.summary else f"validation loss {value} at step {steps[-1]}"
    if found.val_accuracy is not None:
        what += f", accuracy {found.val_accuracy:.2%}"
    return f"{printable(run.name)}: {what} ({printable(found.optimizer)}, {found.steps} steps)"
