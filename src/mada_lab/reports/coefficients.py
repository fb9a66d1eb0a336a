"""The sections of a report about coefficients: how the learned ones moved, and what the others are."""

from collections.abc import Sequence

from mada_lab.plots.coefficients import (
    coefficient_panels,
    hypergradient_panels,
    learned_names,
    with_hypergradients,
)
from mada_lab.plots.curves import SMOOTHING, finite
from mada_lab.plots.style import svg
from mada_lab.records.run_record import Json, Run, base
from mada_lab.reports.html import NONE, figure, number, table, text
from mada_lab.reports.runs import labels, listed

Runs = Sequence[Run]

_MOST = 24
"""At most so many coefficients are shown: a run may learn a set of them per tensor."""


def trajectories(runs: Runs) -> list[str]:
    """The learned coefficients over steps; nothing where no run learns any."""
    pictures = [
        svg(panel, f"coefficient-{i}", f"Coefficient {name} over optimizer steps")
        for i, (name, panel) in enumerate(coefficient_panels(runs, _MOST).items())
    ]
    caption = (
        "Each learned coefficient over optimizer steps, as applied: after guards, floors and learned factors. lr is "
        "the scheduled rate times the learned factor. A panel shows the runs that learn its coefficient. The ring and "
        "the dotted line mark the initial value. The height of a panel is printed above it. It is at least 0.01, "
        f"except for lr, so that a coefficient that hardly moves looks flat.{_left_out(learned_names(runs))}"
    )
    return [_legend(runs), figure(pictures, caption, "small")] if pictures else []


def coefficients(runs: Runs) -> list[str]:
    """Where the learned coefficients began and ended, and below them those that aren't learned."""
    learned = _endpoints(runs) if learned_names(runs) else "<p>Nothing was learned in any of the runs.</p>"
    fixed = [
        f"{label}<span>{_fixed(run)}</span>"
        for label, run in zip(labels(runs), runs, strict=True)
        if set(run.initial_coefficients()) - set(run.learned)
    ]
    return [learned, f'<p class="caption">Not learned, as applied:</p>\n{listed(fixed)}'] if fixed else [learned]


def _endpoints(runs: Runs) -> str:
    names = learned_names(runs)
    rows = [
        [f"<code>{text(name)}</code>", label, *_course(run, name)]
        for name in names[:_MOST]
        for label, run in zip(labels(runs), runs, strict=True)
        if name in run.learned
    ]
    caption = f"Learned coefficients, as applied.{_left_out(names)}"
    return table(["coefficient", "run", "initial → final", "lowest", "highest"], rows, caption)


def _course(run: Run, name: str) -> list[str]:
    values = finite(run.coefficient(name)[1])
    spec = _spec(name)
    ends = [number(float(x), spec) for x in (values.min(), values.max())] if len(values) else [NONE, NONE]
    return [_endpoint(name, run.initial_coefficients(), run.final_coefficients(), spec), *ends]


def _spec(name: str) -> str:
    """The learning rate is the one coefficient that is not of order one."""
    return ".3g" if base(name) == "lr" else ".4f"


def _endpoint(name: str, initial: Json, final: Json, spec: str) -> str:
    return f"{number(initial.get(name), spec)} → {number(final.get(name), spec)}"


def _fixed(run: Run) -> str:
    """The coefficients that a run doesn't learn, each with one value, or with two if a guard or a floor moved it."""
    initial, final = run.initial_coefficients(), run.final_coefficients()
    names = [name for name in initial if name not in run.learned]
    ends = [
        f"{text(name)} {number(initial[name], '.4g')}"
        if final.get(name, initial[name]) == initial[name]
        else f"{text(name)} {_endpoint(name, initial, final, '.4g')}"
        for name in names[:_MOST]
    ]
    return ", ".join(ends) + _left_out(names)


def _left_out(names: Sequence[str]) -> str:
    more = len(names) - _MOST
    return f" {more} more are left out." if more > 0 else ""


def hypergradients(runs: Runs) -> list[str]:
    """What moved the coefficients."""
    panels = hypergradient_panels(runs, _MOST)
    if not panels:
        return ["<p>No run logged a hypergradient other than 0.</p>"]
    pictures = [
        svg(panel, f"hypergradient-{i}", f"Hypergradient of {name} over optimizer steps")
        for i, (name, panel) in enumerate(panels.items())
    ]
    caption = (
        "Derivative of the training loss in each learned coefficient, in nats per unit of the coefficient: negative "
        f"values drive it up. Light: each logged value; strong: its centred mean over 1/{SMOOTHING} of the log steps. "
        "The range above each panel holds 99&nbsp;% of the values; how many lie beyond is printed beside it."
        f"{_left_out(with_hypergradients(runs))}"
    )
    return [_legend(runs), figure(pictures, caption, "small")]


def _legend(runs: Runs) -> str:
    items = [f"<li>{label}</li>" for label, run in zip(labels(runs), runs, strict=True) if run.learned]
    return f'<ul class="legend">{"".join(items)}</ul>'
