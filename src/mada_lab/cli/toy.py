"""`mada-lab toy`."""

from pathlib import Path

from mada_lab.config.arguments import Arguments, number, one_of, path

MOST_STEPS = 1e12


def arguments() -> Arguments:
    """What may be typed after `toy`."""
    does = "Play an online problem on which Adam fails, with Adam, AMSGrad, AVGrad, Yogi and MADA."
    made = Arguments("toy", does, "mada-lab toy --problem=c3 --methods=adam,mada --steps=1e4")
    made.option("problem", "reddi: slopes of period 101; c3: of period 3.", one_of("reddi", "c3"), "reddi", "reddi|c3")
    meaning = (
        "Some of adam, amsgrad, avgrad, yogi, mada_toy (learns rho, beta3 and c, as the MADA authors' toy), mada "
        "(learns all six coefficients) and mada_toy_released (mada_toy with the rule of their code). (default: all)"
    )
    made.option("methods", meaning, shown="A,B,...")
    schedules = one_of("sqrt", "constant")
    made.option("schedule", "Learning rate: lr / sqrt(t), or lr.", schedules, "sqrt", "sqrt|constant")
    made.option("lr", "Learning rate at t = 1. (default: that of the problem)", number(), shown="X")
    made.option("steps", "Number of plays of each method.", number(0, MOST_STEPS), "1e6", "N")
    made.option("out", "Folder of the runs and of report.html. (default: a new folder out/toy-TIME)", path, shown="DIR")
    return made


def run(words: list[str]) -> None:
    """`toy` with its options; prints one line per method."""
    options = arguments()
    given = options.read(words)
    if given.steps != int(given.steps):
        options.error(f"option --steps: expected a whole number, got {given.steps}")
    from mada_lab.cli.train import fresh_folder
    from mada_lab.experiments.toy.game import METHODS, Game, record
    from mada_lab.experiments.toy.page import figures, sections
    from mada_lab.plots.save import save_figures
    from mada_lab.records.run_record import read_run, require_absent
    from mada_lab.reports.report import report

    names = given.methods.split(",") if given.methods else METHODS
    shared = {"problem": given.problem, "schedule": given.schedule, "learning_rate": given.lr}
    games = [Game(method=name, steps=int(given.steps), **shared) for name in names]
    for game in games:
        game.optimizer()
    out = given.out or Path(fresh_folder("toy"))
    for game in games:
        require_absent(out / game.method, "choose another --out, or delete the folder")
    for game in games:
        end = record(game, out / game.method)
        per_step = end["seconds"] / game.steps * 1e6
        print(
            f"{game.method:14} x = {end['final_iterate']:+.4f}, average regret {end['final_average_regret']:.4f}, "
            f"{game.steps:,} steps in {end['seconds']:.1f} s of one core ({per_step:.1f} µs a step)",
            flush=True,
        )
    runs = [read_run(out / game.method) for game in games]
    save_figures(figures(runs), out)
    print(f"report: {report(runs, sections(runs)).write(out / 'report.html').resolve()}")
