"""The page about a comparison: one table, the losses over steps, the final differences. From the records alone."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from mada_lab.experiments.comparison.compare import Group, table
from mada_lab.experiments.seeds import band
from mada_lab.plots.seeds import bands, bars
from mada_lab.reports.html import Figures, Page, Section, Text
from mada_lab.reports.sections import configuration, origin

BAND = "The mean over seeds, and the range from the lowest to the highest seed."
BARS = (
    "Left: final losses, a dot per seed, the mean and the standard deviation over seeds. Right: difference from the "
    "first optimizer, seed by seed; below zero is better than it."
)


def overlay(groups: Sequence[Group]) -> Figure:
    """Validation loss over steps."""
    curves = {group.name: [run.series("val_loss") for run in group.runs if run is not None] for group in groups}
    return bands({name: band(x) for name, x in curves.items()}, "Validation loss")


def final(groups: Sequence[Group], which: str) -> Figure:
    """Final losses, and their paired differences from the first group's."""
    ends = {group.name: group.losses(which) for group in groups}
    paired = {group.name: group.differences(groups[0], which) for group in groups}
    return bars(ends, paired, f"Final {which} loss")


def page(groups: Sequence[Group]) -> Page:
    """The page."""
    runs = [run for group in groups for run in group.runs[:1] if run is not None]
    differences = {
        f"Final {which} loss of each optimizer, and differences from the first": final(groups, which)
        for which in ("validation", "training")
    }
    sections = [
        Section("Results", [table(groups)]),
        Section("Validation loss", [Figures({"Validation loss over steps": overlay(groups)}, BAND, "whole")]),
        Section("Final losses", [Figures(differences, BARS)]),
    ]
    if runs:
        keys = configuration(runs)
        sections += [Section(keys.title, [Text("Of the first seed of each."), *keys.parts]), origin(runs)]
    count = len(groups[0].runs)
    lead = Text(f"{count} seed{'s' if count > 1 else ''} each, the same budget.", "lead")
    return Page(f"Comparison of {len(groups)} optimizers", sections, [lead])
