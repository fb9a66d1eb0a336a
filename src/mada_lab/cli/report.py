"""`mada-lab report`."""

from pathlib import Path

from mada_lab.config.arguments import Arguments, path
from mada_lab.errors import require_exists


def arguments() -> Arguments:
    """What may be typed after `report`."""
    does = "Write an HTML page about one or several runs: losses, learned coefficients, configuration."
    example = "mada-lab report out/mada out/adamw --out=out/report.html"
    made = Arguments("report", does, example, {"RUN...": "Folders of runs, of sweeps or of comparisons."}, least=0)
    made.option("out", "The page. (default: report.html in the first folder)", path, shown="FILE")
    made.option("figures", "Write each figure as .png and .svg into this folder too.", path, shown="DIR")
    made.option("published", "Add the MADA authors' logs in this folder, as published or as CSV.", path, shown="DIR")
    return made


def run(words: list[str]) -> None:
    """`report RUN... [--published DIR] [--out FILE] [--figures DIR]`."""
    options = arguments()
    given = options.read(words)
    if not given.places and given.published is None:
        options.error("expected one run folder or several, got none")
    for place in (*given.places, *([given.published] if given.published else [])):
        require_exists(Path(place), "report")
    from mada_lab.experiments.toy.page import figures, sections
    from mada_lab.plots.save import save_figures
    from mada_lab.records.run_record import read_run, read_runs
    from mada_lab.reports.published_logs import read_published
    from mada_lab.reports.report import gallery, headline, report

    runs = [run for place in map(Path, given.places) for run in read_runs(place) or [read_run(place)]]
    if given.published is not None:
        runs += read_published(given.published)
    page = report(runs, sections(runs)).write(given.out or Path(*given.places[:1], "report.html"))
    print("\n".join(headline(runs)))
    print(f"report: {page.resolve()}")
    if given.figures is not None:
        files = save_figures({**figures(runs), **gallery(runs)}, given.figures)
        print(f"figures: {len(files)} files in {given.figures.resolve()}")
