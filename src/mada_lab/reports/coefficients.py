"""The sections of a report about coefficients and hypergradients."""

from collections.abc import Collection, Sequence
from itertools import islice

from mada_lab.plots import coefficients as plots
from mada_lab.plots.coefficients import learned_names
from mada_lab.plots.curves import SMOOTHING, finite
from mada_lab.plots.style import SMALL, Panels, separate
from mada_lab.records.run_record import Json, Run, base
from mada_lab.reports.html import NONE, Figures, Listing, Part, Section, Table, Text, number
from mada_lab.reports.runs import labels

Runs = Sequence[Run]

_MOST = 24  # coefficients that are shown: a run may learn a set of them per tensor


def trajectories(runs: Runs) -> Section:
    """The learned coefficients over steps."""
    caption = (
        "Each learned coefficient over optimizer steps, as applied: after guards, floors and learned factors. lr is "
        "the scheduled rate times the learned factor. A panel shows the runs that learn its coefficient. The ring and "
        "the dotted line mark the initial value. The height of a panel is printed above it. It is at least 0.01, "
        "except for lr, so that a coefficient that hardly moves looks flat."
    )
    panels = plots.coefficients(runs)
    return Section("Learned coefficients", _panels(runs, "Coefficient", panels, caption) if panels else [])


def hypergradients(runs: Runs) -> Section:
    """The hypergradients of the learned coefficients over steps."""
    panels = plots.hypergradients(runs)
    caption = (
        "Derivative of the training loss in each learned coefficient, in nats per unit of the coefficient: negative "
        f"values drive it up. Light: each logged value; strong: its centered mean over 1/{SMOOTHING} of the log steps. "
        "The range above each panel holds 99% of the values; how many lie beyond is printed beside it."
    )
    nothing = [Text("No run logged a hypergradient other than 0.")]
    return Section("Hypergradients", _panels(runs, "Hypergradient of", panels, caption) if panels else nothing)


def _panels(runs: Runs, quantity: str, panels: Panels, caption: str) -> list[Part]:
    legend = [(label, "") for label, run in zip(labels(runs), runs, strict=True) if run.learned]
    first = separate(dict(islice(panels.items(), _MOST)), SMALL)
    drawn = {f"{quantity} {name} over optimizer steps": figure for name, figure in first.items()}
    return [Listing(legend, "legend"), Figures(drawn, caption + _left_out(panels), "small")]


def coefficients(runs: Runs) -> Section:
    """Where the learned coefficients began and ended, and the values of those that aren't learned."""
    fixed = [
        (label, _fixed(run))
        for label, run in zip(labels(runs), runs, strict=True)
        if set(run.initial_coefficients()) - set(run.learned)
    ]
    learned: Part = _endpoints(runs) if learned_names(runs) else Text("Nothing was learned in any of the runs.")
    rest: list[Part] = [Text("Not learned, as applied:", "caption"), Listing(fixed)] if fixed else []
    return Section("Coefficients", [learned, *rest])


def _endpoints(runs: Runs) -> Table:
    names = learned_names(runs)
    rows = [
        [name, label, *_course(run, name)]
        for name in names[:_MOST]
        for label, run in zip(labels(runs), runs, strict=True)
        if name in run.learned
    ]
    caption = f"Learned coefficients, as applied.{_left_out(names)}"
    return Table(["coefficient", "run", "initial → final", "lowest", "highest"], rows, caption, "names")


def _course(run: Run, name: str) -> list[str]:
    values = finite(run.coefficient(name)[1])
    spec = ".3g" if base(name) == "lr" else ".4f"  # lr is the one coefficient that is not of order one
    ends = [number(float(x), spec) for x in (values.min(), values.max())] if len(values) else [NONE, NONE]
    return [_endpoint(name, run.initial_coefficients(), run.final_coefficients(), spec), *ends]


def _endpoint(name: str, initial: Json, final: Json, spec: str) -> str:
    return f"{number(initial.get(name), spec)} → {number(final.get(name), spec)}"


def _fixed(run: Run) -> str:
    """The coefficients that a run doesn't learn, each with one value, or with two if a guard or a floor moved it."""
    initial, final = run.initial_coefficients(), run.final_coefficients()
    names = [name for name in initial if name not in run.learned]
    ends = [
        f"{name} {number(initial[name], '.4g')}"
        if final.get(name, initial[name]) == initial[name]
        else f"{name} {_endpoint(name, initial, final, '.4g')}"
        for name in names[:_MOST]
    ]
    return ", ".join(ends) + _left_out(names)


def _left_out(names: Collection[str]) -> str:
    more = len(names) - _MOST
    return f" {more} more are left out." if more > 0 else ""
