"""`mada-lab grid`."""

from pathlib import Path

from mada_lab.cli.words import split
from mada_lab.errors import ConfigError

USAGE = """\
grid DIR [--out FIGURE.svg|png|pdf]
    contours of training and validation loss over initial betas, a table of them, and a page with both: of a sweep over
    optimizer, beta1, beta2 (and seed) in DIR/runs, or of the authors' published files in DIR, as published or as CSV
"""


def run(words: list[str]) -> None:
    """`grid DIR [--out FIGURE]`."""
    names, options = split(words, {"--out"})
    if len(names) != 1:
        raise ConfigError(f"grid: expected the folder of one grid, got {len(names)}; see `mada-lab --help`")
    from mada_lab.experiments.grid import page, read_surfaces, table
    from mada_lab.plots.contours import contours
    from mada_lab.plots.save import save

    surfaces = read_surfaces(Path(names[0]))
    figure = Path(options.get("--out", Path(names[0]) / "grid.svg"))
    save(contours(surfaces), figure)
    print(table(surfaces).markdown())
    print(f"figure: {figure}")
    print(f"grid: {page(surfaces).write(figure.with_suffix('.html')).resolve()}")
