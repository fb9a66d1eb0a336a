"""`mada-lab toy`."""

from pathlib import Path

from mada_lab.cli.words import number, split
from mada_lab.errors import ConfigError

MOST_STEPS = 1e12
USAGE = """\
toy [--problem reddi|c3] [--methods A,B] [--schedule sqrt|constant] [--lr X] [--steps N] [--out DIR]
    an online problem on which Adam goes the wrong way, played by Adam, AMSGrad, AVGrad, Yogi and MADA
"""


def run(words: list[str]) -> None:
    """`toy` with its options; prints one line per method."""
    names, options = split(words, {"--problem", "--methods", "--schedule", "--lr", "--steps", "--out"})
    if names:
        raise ConfigError(f"toy: expected options alone, got {names[0]}; see `mada-lab --help`")
    from mada_lab.experiments.toy.game import METHODS, Game, record
    from mada_lab.plots.save import save_figures
    from mada_lab.plots.toy import toy_figure
    from mada_lab.records.run_record import read_run
    from mada_lab.reports.report import write_report

    problem, schedule = options.get("--problem", "reddi"), options.get("--schedule", "sqrt")
    out = Path(options.get("--out", f"out/toy/{problem}_{schedule}"))
    lr = number("toy", "--lr", options["--lr"]) if "--lr" in options else None
    steps = number("toy", "--steps", options.get("--steps", "1e6"), 0, MOST_STEPS)
    if steps != int(steps):
        raise ConfigError(f"toy, option --steps: expected a whole number, got {options['--steps']}; correct it")
    methods = options.get("--methods", ",".join(METHODS)).split(",")
    games = [
        Game(problem=problem, method=name, schedule=schedule, learning_rate=lr, steps=int(steps)) for name in methods
    ]
    for game in games:
        end = record(game, out / game.method)
        per_step = end["seconds"] / game.steps * 1e6
        print(
            f"{game.method:14} x = {end['final_iterate']:+.4f}, average regret {end['final_average_regret']:.4f}, "
            f"{game.steps:,} steps in {end['seconds']:.1f} s of one core ({per_step:.1f} µs a step)",
            flush=True,
        )
    folders = [out / game.method for game in games]
    save_figures({"toy": toy_figure([read_run(folder) for folder in folders])}, out)
    print(f"report: {write_report(folders, out / 'report.html').resolve()}")
