"""`mada-lab grid`."""

from pathlib import Path

from mada_lab.config.arguments import Arguments, path
from mada_lab.errors import require_exists


def arguments() -> Arguments:
    """What may be typed after `grid`."""
    does = "Draw contours of the final losses over initial betas, and write a page with them and a table."
    meaning = (
        "Folder of a sweep over optimizer, beta1 and beta2 (and seed), or of the MADA authors' grids, as published or "
        "as CSV."
    )
    made = Arguments("grid", does, "mada-lab grid out/sweep --out=grid.svg", {"DIR": meaning})
    made.option(
        "out", "The figure, .svg, .png or .pdf; the page is beside it. (default: DIR/grid.svg)", path, shown="FILE"
    )
    return made


def run(words: list[str]) -> None:
    """`grid DIR [--out FILE]`."""
    given = arguments().read(words)
    from mada_lab.experiments.grid import page, read_surfaces, table
    from mada_lab.plots.contours import contours
    from mada_lab.plots.save import save

    folder = Path(given.places[0])
    require_exists(folder, "grid")
    surfaces, points = read_surfaces(folder), _points(folder)
    figure = given.out or folder / "grid.svg"
    save(contours(surfaces), figure)
    print(table(surfaces).markdown())
    print(f"figure: {figure}")
    print(f"{points}\n" if points else "", end="")
    print(f"grid: {page(surfaces, points).write(figure.with_suffix('.html')).resolve()}")


def _points(folder: Path) -> str:
    """How many points of the sweep in `folder` are done; empty where its storage is elsewhere."""
    journal = folder / "sweep.journal"
    if not journal.exists():
        return ""
    from mada_lab.config.keys import TrainConfig
    from mada_lab.experiments.sweeps.join import progress
    from mada_lab.experiments.sweeps.storage import open_storage

    done, size = progress(open_storage(str(journal)), TrainConfig())
    return f"{done} of {size} points" + ("; the command of the sweep trains the rest" if done < size else "")
