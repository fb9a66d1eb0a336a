"""All figures of a report by name, to save as files."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from mada_lab.plots.coefficients import (
    coefficient_grid,
    hypergradient_grid,
    learned_names,
    with_hypergradients,
)
from mada_lab.plots.losses import training_loss, validation_loss
from mada_lab.plots.toy import is_toy, toy_figure
from mada_lab.records.outcome import distinct
from mada_lab.records.run_record import Run


def gallery(runs: Sequence[Run]) -> dict[str, Figure]:
    """The figures that the runs have something to show in."""
    runs = distinct(runs)
    figures = {}
    if any(map(is_toy, runs)):
        figures["toy"] = toy_figure(runs)
    if not all(map(is_toy, runs)):
        figures |= {"training_loss": training_loss(runs), "validation_loss": validation_loss(runs)}
    if learned_names(runs):
        figures["coefficients"] = coefficient_grid(runs)
    if with_hypergradients(runs):
        figures["hypergradients"] = hypergradient_grid(runs)
    return figures
