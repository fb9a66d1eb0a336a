"""Runs that are killed at random moments."""

import signal
from dataclasses import replace
from functools import partial

from tests.reliability import ranks, runs
from tests.reliability.tally import Tally

CONFIG = replace(runs.TINY, max_iters=60, checkpoint_interval=5, keep_checkpoints=2, hyper_start=20)
STARTUP = 0.03  # seconds of a process before it trains
KILLS_PER_RUN = 5


GROUP = replace(CONFIG, gradient_accumulation_steps=2, max_iters=100)
OTHERS_END = 10.0  # seconds until the other processes of a group have noticed


def at_random(folder, config, count, rng, size=1):
    """`count` times SIGKILL at a moment drawn uniformly; each run is killed up to 5 times, then left alone.

    Of `size` processes one is killed, drawn at random too; the others must end when they are asked to, as torchrun does
    when it sees a dead one.
    """
    launch = runs.in_child if size == 1 else partial(ranks.in_group, size)
    most = "two save intervals" if config.background_save else "one save interval"
    tally = Tally(f"whole at once; at most {most} lost; in the end the undisturbed state, rows and summary")
    reference, seconds = runs.undisturbed(folder, config, launch)
    kills, most_lost = 0, 0
    while kills < count:
        mine = replace(config, out_dir=str(folder / f"{kills}"))
        problem, in_run, code = "", 0, None
        while code != 0 and not problem:
            may_die = kills < count and in_run < KILLS_PER_RUN
            wait = rng.uniform(STARTUP, seconds) if may_die else runs.DEADLINE
            code = _killed_after(mine, wait) if size == 1 else _one_killed_after(mine, wait, size, rng.randrange(size))
            kills, in_run = kills + (code == -9), in_run + (code == -9)
            problem, lost = _look(mine, code)
            most_lost = max(most_lost, lost)
        if not problem and runs.finished(mine.out_dir) != reference:
            problem = "another result"
        tally.case(mine.out_dir, problem)
    tally.figures = {"kills": str(kills), "runs": str(tally.cases), "most steps lost": str(most_lost)}
    return tally


def _killed_after(config, seconds):
    process = runs.start(runs.train, runs.again(config))
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _one_killed_after(config, seconds, size, victim):
    group = ranks.Group(size, runs.train, runs.again(config))
    group.processes[victim].join(seconds)
    group.processes[victim].kill()
    group.processes[victim].join()
    if group.processes[victim].exitcode != 0:
        for process in group.processes:
            process.terminate()
    codes = group.codes(OTHERS_END)
    others = {code for rank, code in enumerate(codes) if rank != victim}
    if codes[victim] == 0:
        return 0 if others == {0} else codes
    # before the run listens for signals, SIGTERM ends a process as it does any
    return -9 if codes[victim] == -9 and others <= {0, 6, -signal.SIGTERM} else codes


def _look(config, code):
    """What is wrong with a run that ended with `code`, and how many steps it lost."""
    row, saved = runs.last_steps(config.out_dir)
    if code not in (0, -9):
        return f"exit code {code}", row - saved
    in_flight = config.checkpoint_interval if config.background_save else 0
    if row - saved > config.checkpoint_interval + in_flight:
        return f"{row - saved} steps lost", row - saved
    return runs.broken(config.out_dir), row - saved
