"""The matrix of resumes: every kind of run, stopped at every kind of point, goes on bit for bit."""

import itertools
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.reliability import ranks, runs
from tests.reliability.tally import Tally

STEPS_AFTER = 20
#: Name of a point: the step after which the run is stopped, and the steps whose gradient is not finite.
POINTS = {
    "between evaluations": (17, ()),
    "at an evaluation and a checkpoint": (20, ()),
    "after a skipped step": (17, (17,)),
    "before hyper_start": (3, ()),
}
CONFIG = replace(runs.TINY, digest_interval=1, hyper_start=6)


def matrix(
    folder,
    config,
    dtypes=("float32", "bfloat16"),
    accumulations=(1, 3),
    options=({},),
    points=tuple(POINTS),
    size=1,
    after=STEPS_AFTER,
):
    """Each cell stops a run by SIGTERM, resumes it, and compares rows and digests with those of an undisturbed run.

    With `size` processes, one of them is sent the signal. `after` steps follow the resumption.
    """
    launch = runs.in_child if size == 1 else partial(ranks.in_group, size)
    tally = Tally(f"{after} further steps with the same digests of the whole state, rows and summary")
    cells = itertools.product(dtypes, accumulations, points, options)
    for i, (dtype, passes, point, option) in enumerate(cells):
        stop, poison = POINTS[point]
        mine = replace(config, dtype=dtype, gradient_accumulation_steps=passes, max_iters=stop + after, **option)
        whole, part = (replace(mine, out_dir=str(folder / f"{i}-{name}")) for name in ("whole", "part"))
        # a group stops after the step in which it agrees to
        codes = [launch(runs.train, whole, None, poison), launch(train_until, part, stop - (size > 1), poison)]
        stood_at = runs.last_steps(part.out_dir)[1]
        codes.append(launch(runs.train, runs.again(part), None, poison))
        problem = "" if codes == [0, 143, 0] and stood_at == stop else f"exit codes {codes}, stopped at {stood_at}"
        if not problem and runs.finished(whole.out_dir) != runs.finished(part.out_dir):
            problem = "another result"
        if not problem and Path(whole.out_dir, "metrics.jsonl").read_text().count('"digest"') != mine.max_iters + 1:
            problem = "digests are missing"
        tally.case(f"{dtype}, {passes} passes, {point}, {option}", problem)
    return tally


def train_until(config, step, poison):
    """Trains, and asks itself to stop when `step` steps are done."""
    is_last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1

    def at_step(done):
        if done == step and is_last:
            os.kill(os.getpid(), signal.SIGTERM)

    runs.train(config, None, poison, at_step)
