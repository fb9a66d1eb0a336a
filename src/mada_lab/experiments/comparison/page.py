"""The page about a comparison: one table, the losses over steps, the final differences. From the records alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mada_lab.experiments.comparison.compare import HEAD, Group, differences, rows
from mada_lab.plots.bars import Band, Bar, bands, bars
from mada_lab.plots.style import svg
from mada_lab.records.run_record import Run
from mada_lab.reports.html import figure, page, section, table, text
from mada_lab.reports.sections import configuration, origin
from mada_lab.system.files import make_folder, write_atomic

WHICH = ("validation", "training")


def overlay(groups: Sequence[Group]) -> Figure:
    """Validation loss over steps."""
    return bands([_band(group) for group in groups], "Validation loss")


def _band(group: Group) -> Band:
    series = [run.series("val_loss") for run in group.runs if run is not None]
    steps = sorted(set.intersection(*(set(s) for s, _ in series))) if series else []
    at = [dict(zip(*pair, strict=True)) for pair in series]
    return Band(group.name, steps, np.array([[values[step] for step in steps] for values in at]))


def final(groups: Sequence[Group], which: str) -> Figure:
    """Final losses, and their paired differences from the first group's."""
    ends = [Bar(group.name, group.losses(which)) for group in groups]
    paired = [Bar(group.name, differences(group, groups[0], which).values) for group in groups]
    return bars(ends, paired, f"Final {which} loss")


def write_page(groups: Sequence[Group], path: Path) -> None:
    """Writes the page; the same records give the same bytes."""
    runs = [run for group in groups for run in group.runs[:1] if run is not None]
    body = [
        f"<header>\n<h1>Comparison of {len(groups)} optimizers</h1>\n"
        f'<p class="lead">{len(groups[0].runs)} seeds each, the same budget</p>\n</header>',
        section("Results", _table(groups)),
        section(
            "Validation loss", figure([svg(overlay(groups), "overlay", "Validation loss over steps")], BAND, "wide")
        ),
        section("Final losses", figure([_svg(groups, which) for which in WHICH], BARS, "wide")),
        *_details(runs),
    ]
    make_folder(path.parent)
    write_atomic(path, page(f"Comparison of {len(groups)} optimizers", body))


BAND = "The mean over seeds, and the range from the lowest to the highest seed."
BARS = (
    "Left: final losses, a dot per seed, the mean and the standard deviation over seeds. Right: difference from the "
    "first optimizer, seed by seed; below zero is better than it."
)


def _svg(groups: Sequence[Group], which: str) -> str:
    return svg(final(groups, which), which, f"Final {which} loss of each optimizer, and differences from the first")


def _table(groups: Sequence[Group]) -> str:
    caption = (
        "Losses in nats: mean ± standard deviation over seeds. Differences are paired: from the first optimizer's run "
        "of the same seed; “lower in” counts the seeds in which the loss is below that. Failed: no finite final loss."
    )
    return table([text(x) for x in HEAD], [[text(x) for x in row] for row in rows(groups)], caption)


def _details(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    return [
        section("Configuration", "<p>Of the first seed of each.</p>", *configuration(runs)),
        section("Origin", origin(runs)),
    ]
