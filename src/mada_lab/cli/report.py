"""`mada-lab report`."""

from pathlib import Path

from mada_lab.cli.words import split
from mada_lab.errors import ConfigError

USAGE = """\
report RUN... [--published DIR] [--out PATH] [--figures DIR]
    one HTML page about one or several runs, published logs too (the authors' files in DIR, as published or as CSV);
    each figure also as .png and .svg
"""


def run(words: list[str]) -> None:
    """`report RUN... [--published DIR] [--out PATH] [--figures DIR]`."""
    names, options = split(words, {"--out", "--figures", "--published"})
    if not names and "--published" not in options:
        raise ConfigError("report: expected one run folder or several, got none; see `mada-lab --help`")
    from mada_lab.plots.gallery import gallery
    from mada_lab.plots.save import save_figures
    from mada_lab.records.run_record import read_run
    from mada_lab.reports.published_logs import read_published
    from mada_lab.reports.report import headline, write_page

    runs = [read_run(Path(name)) for name in names]
    if "--published" in options:
        runs += read_published(Path(options["--published"]))
    page = write_page(runs, Path(options.get("--out", Path(names[0] if names else ".") / "report.html")))
    print("\n".join(headline(runs)))
    print(f"report: {page.resolve()}")
    if "--figures" in options:
        files = save_figures(gallery(runs), Path(options["--figures"]))
        print(f"figures: {len(files)} files in {Path(options['--figures']).resolve()}")
