"""Training loss, validation loss and accuracy of several runs, overlaid. Both loss figures have one vertical range."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mada_lab.plots import style
from mada_lab.plots.curves import floats, loss_range, smooth, thin
from mada_lab.records.run_record import Run

MARKED = 50  # beyond so many evaluations, their markers would hide the lines


@style.drawing()
def training_loss(runs: Sequence[Run]) -> Figure:
    """Training loss over steps: each logged value in light, and their moving mean."""
    return _loss(runs, "Training loss", "train_loss", smoothed=True)


@style.drawing()
def validation_loss(runs: Sequence[Run]) -> Figure:
    """Validation loss over steps, with a marker at each evaluation unless they are many."""
    return _loss(runs, "Validation loss", "val_loss")


@style.drawing()
def validation_accuracy(runs: Sequence[Run]) -> Figure:
    """Share of right answers over steps, with a marker at each evaluation."""
    figure = _figure(runs, "Validation accuracy", "accuracy", "val_accuracy", "lower right")
    figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _loss(runs: Sequence[Run], title: str, key: str, smoothed: bool = False) -> Figure:
    curves = []
    for run in runs:
        (steps, values), (evaluations, losses) = run.series("train_loss"), run.series("val_loss")
        curves += [(steps, smooth(values)), (evaluations, floats(losses))]
    figure = _figure(runs, title, "loss (nats)", key, smoothed=smoothed)
    figure.axes[0].set_ylim(*loss_range(curves))
    return figure


def _figure(
    runs: Sequence[Run], title: str, unit: str, key: str, corner: str = "upper right", smoothed: bool = False
) -> Figure:
    """The series `key` of each run: its evaluations, or its logged values and their moving mean."""
    figure = Figure(figsize=style.WIDE, layout="constrained")
    axes = figure.add_subplot(title=title, ylabel=unit)
    style.step_axis(axes, runs)
    lines = []
    for i, run in enumerate(runs):
        steps, values = run.series(key)
        if not steps:
            continue
        look = style.dots(i) if len(steps) <= (1 if smoothed else MARKED) else {}
        if smoothed:
            axes.plot(*thin(steps, values), color=style.color(i), **style.RAW)
        curve = smooth(values) if smoothed else values
        [line] = axes.plot(*thin(steps, curve), **style.line_style(i), **style.LINE, **look)
        lines.append((run.name, line))
    style.legend(axes, lines, "no step logged yet" if smoothed else "no evaluation yet", corner)
    return figure
