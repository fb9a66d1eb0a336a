"""`mada-lab report`."""

from pathlib import Path

from mada_lab.cli.words import split
from mada_lab.errors import ConfigError

USAGE = """\
report RUN... [--out PATH]
    one HTML page about one or several runs
"""


def run(words: list[str]) -> None:
    """`report RUN... [--out PATH]`."""
    names, options = split(words, {"--out"})
    if not names:
        raise ConfigError("report: expected one run folder or several, got none; see `mada-lab --help`")
    from mada_lab.record import read_run
    from mada_lab.report import headline, write_report

    folders = [Path(name) for name in names]
    page = write_report(folders, Path(options.get("--out", folders[0] / "report.html")))
    print("\n".join(headline([read_run(folder) for folder in folders])))
    print(f"report: {page.resolve()}")
