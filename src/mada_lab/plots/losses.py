"""Training and validation loss of several runs, overlaid, and accuracy.

Both figures of the losses of the same runs have one vertical range.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from mada_lab.plots import style
from mada_lab.plots.curves import floats, loss_range, smooth, thin
from mada_lab.records.run_record import Run

MARKED = 50  # beyond so many evaluations, their markers would hide the lines


@style.drawing()
def training_loss(runs: Sequence[Run]) -> Figure:
    """Training loss over steps: each logged value in light, and their moving mean."""
    figure, axes = _panel("Training loss", runs)
    lines: list[tuple[str, Line2D]] = []
    for i, run in enumerate(runs):
        steps, values = run.series("train_loss")
        if not steps:
            continue
        axes.plot(*thin(steps, values), color=style.colour(i), **style.RAW)
        alone: style.Look = {"marker": "o", "markersize": 4} if len(steps) == 1 else {}
        [line] = axes.plot(*thin(steps, smooth(values)), **style.line_style(i), **style.LINE, **alone)
        lines.append((run.name, line))
    _name(axes, lines, "no step logged yet")
    return figure


@style.drawing()
def validation_loss(runs: Sequence[Run]) -> Figure:
    """Validation loss over steps, with a marker at each evaluation unless they are many."""
    figure, axes = _panel("Validation loss", runs)
    _evaluations(axes, runs, "val_loss")
    return figure


@style.drawing()
def validation_accuracy(runs: Sequence[Run]) -> Figure:
    """Share of right answers over steps, with a marker at each evaluation."""
    figure = Figure(figsize=style.WIDE, layout="constrained")
    axes = figure.add_subplot(title="Validation accuracy", xlabel="optimizer step", ylabel="accuracy")
    style.step_axis(axes, runs)
    _evaluations(axes, runs, "val_accuracy", "lower right")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _evaluations(axes: Axes, runs: Sequence[Run], key: str, corner: str = "upper right") -> None:
    lines: list[tuple[str, Line2D]] = []
    for i, run in enumerate(runs):
        steps, values = run.series(key)
        if not steps:
            continue
        look = style.LINE | (style.dots(i) if len(steps) <= MARKED else {"linewidth": 1.2})
        [line] = axes.plot(*thin(steps, values), **style.line_style(i), **look)
        lines.append((run.name, line))
    _name(axes, lines, "no evaluation yet", corner)


def _panel(title: str, runs: Sequence[Run]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=style.WIDE, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="optimizer step", ylabel="loss (nats)")
    curves = []
    for run in runs:
        (steps, values), (evaluations, losses) = run.series("train_loss"), run.series("val_loss")
        curves += [(steps, smooth(values)), (evaluations, floats(losses))]
    axes.set_ylim(*loss_range(curves))
    style.step_axis(axes, runs)
    return figure, axes


def _name(axes: Axes, lines: list[tuple[str, Line2D]], nothing: str, corner: str = "upper right") -> None:
    if lines:
        style.legend(axes, [line for _, line in lines], [name for name, _ in lines], corner)
    else:
        style.say(axes, nothing)
