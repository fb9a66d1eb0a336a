"""The report: one self-contained HTML page about one run or several, from their records alone."""

from collections.abc import Mapping, Sequence
from math import isfinite

from matplotlib.figure import Figure

from mada_lab.errors import ConfigError
from mada_lab.plots import coefficients as plots
from mada_lab.plots.style import SMALL, printable, together
from mada_lab.records.outcome import distinct, outcome
from mada_lab.records.run_record import Run
from mada_lab.reports.coefficients import coefficients, hypergradients, trajectories
from mada_lab.reports.html import Page, Section
from mada_lab.reports.sections import configuration, introduction, loss_figures, losses, origin, results


def report(runs: Sequence[Run], first: Sequence[Section] = ()) -> Page:
    """The page about `runs`, which are compared with the first one. Raises ConfigError if there is none.

    Args:
        runs: One run or several.
        first: Sections of the experiment that the runs belong to, which come first.
    """
    if not runs:
        raise ConfigError("report, RUN: expected at least one run folder, got none; name the folders of the runs")
    runs = distinct(runs)
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"Comparison of {len(runs)} runs"
    makers = (trajectories, results, losses, coefficients, hypergradients, configuration, origin)
    return Page(title, [*first, *(make(runs) for make in makers)], introduction(runs))


def gallery(runs: Sequence[Run]) -> Mapping[str, Figure]:
    """The figures of the report by name, to save as files."""
    runs = distinct(runs)
    figures = {name.lower().replace(" ", "_"): figure for name, figure in loss_figures(runs).items()}
    names = {i: run.name for i, run in enumerate(runs) if run.learned}
    panels = {"coefficients": plots.coefficients(runs), "hypergradients": plots.hypergradients(runs)}
    return figures | {name: together(x, SMALL, names) for name, x in panels.items() if x}


def headline(runs: Sequence[Run]) -> list[str]:
    """One line per run for a terminal: its validation loss, and its accuracy if there is one."""
    return [_headline(run) for run in distinct(runs)]


def _headline(run: Run) -> str:
    end = outcome(run)
    if end.val_loss is None:
        loss = "no validation loss"
    else:
        value = f"{end.val_loss:.4f}" if isfinite(end.val_loss) else "not finite"
        at = "" if run.summary else f" at step {run.series('val_loss')[0][-1]}"
        loss = f"{'' if at else 'final '}validation loss {value}{at}"
    accuracy = "" if end.val_accuracy is None else f", accuracy {end.val_accuracy:.2%}"
    return f"{printable(run.name)}: {loss}{accuracy} ({printable(end.optimizer)}, {end.steps} steps)"
