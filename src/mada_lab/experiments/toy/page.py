"""The section of a report about runs of an online problem: average regret, iterate and rho over time."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mada_lab.plots.style import WIDE, separate, together
from mada_lab.plots.toy import panels
from mada_lab.records.outcome import distinct
from mada_lab.records.run_record import Run
from mada_lab.reports.html import Figures, Listing, Section, Table, number
from mada_lab.reports.runs import labels

CAPTION = (
    "Plays are in [-1, 1]; the best fixed play is -1. Average regret is the loss that a method paid by time t, minus "
    "that of the best fixed play, over t."
)
COLUMNS = {"step": ",d", "iterate": ".4f", "average_regret": ".4f", "seconds": ",.1f"}


def has_regret(run: Run) -> bool:
    """Whether the run is one of an online problem."""
    return bool(run.series("average_regret")[0])


def sections(runs: Sequence[Run]) -> list[Section]:
    """The section about regret; none if no run is one of an online problem."""
    runs = distinct(runs)
    played = [i for i, run in enumerate(runs) if has_regret(run)]
    if not played:
        return []
    names, titles = labels(runs), labels(runs, state=True)
    legend = Listing([(names[i], "") for i in played], "legend")
    drawn = {f"{name} of each method over time": figure for name, figure in separate(panels(runs), WIDE).items()}
    rows = [[titles[i], *(number(runs[i].rows[-1].get(key), spec) for key, spec in COLUMNS.items())] for i in played]
    table = Table(["run", "steps", "iterate x", "average regret", "time\n(s)"], rows)
    return [Section("Regret", [legend, Figures(drawn, CAPTION), table])]


def figures(runs: Sequence[Run]) -> Mapping[str, Figure]:
    """The figure of the online problem by name, to save as a file; none if no run is one."""
    names = {i: run.name for i, run in enumerate(runs) if has_regret(run)}
    return {"toy": together(panels(runs), WIDE, names)} if names else {}
