"""Runs under torchrun, which starts the processes again when one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.reliability import runs
from tests.reliability.tally import Tally

CONFIG = replace(runs.TINY, gradient_accumulation_steps=2)
#: Long enough that most kills hit training, not the start of the processes.
KILLED = replace(CONFIG, max_iters=600, lr_decay_iters=600, checkpoint_interval=20, eval_interval=100, hyper_start=20)
KEYS = (
    "n_layer n_head n_embd block_size batch_size gradient_accumulation_steps dropout max_iters warmup_iters "
    "lr_decay_iters hyper_start parallel init_from eval_interval eval_iters log_interval checkpoint_interval "
    "data_dir device out_dir"
).split()
LAUNCH = [sys.executable, "-m", "torch.distributed.run"]
RESTARTS = 3
DEADLINE = 240.0  # seconds of a launch with all its restarts


def command(config):
    """The command line of a run, for `LAUNCH`."""
    return ["-m", "mada_lab", "train", *(f"--{key}={getattr(config, key)}" for key in KEYS)]


def workers(process):
    """The processes that torchrun has started; empty while it starts them."""
    with suppress(FileNotFoundError):
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    return []


@contextmanager
def started(words, stderr=subprocess.PIPE, **environment):
    """A process, and whatever it has started, none of which is left in the end."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(words, env=env, stderr=stderr, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def launched(config, size=2):
    """torchrun with `size` processes. Its errors are dropped: a pipe that nobody reads would fill up, and block it."""
    words = [*LAUNCH, "--standalone", f"--nproc_per_node={size}", f"--max-restarts={RESTARTS}", *command(config)]
    return started(words, stderr=subprocess.DEVNULL)


def kill_one(process, seconds, rng):
    """Kills one of the workers at random, `seconds` after their start; returns whether it has, before the run's end."""
    until = time.monotonic() + DEADLINE
    while process.poll() is None and (len(found := workers(process)) < 2):
        assert time.monotonic() < until, "torchrun starts no processes"
        time.sleep(0.02)
    if process.poll() is not None:
        return False
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.kill(rng.choice(found), signal.SIGKILL)
        return True
    return False


def at_random(folder, config, count, rng, seconds=8.0):
    """Kills one of two processes in each of `count` launches, within `seconds` of its start."""
    tally = Tally("torchrun starts all again; in the end the undisturbed state, rows and summary")
    folder.mkdir()
    whole = replace(config, out_dir=str(folder / "undisturbed"))
    with launched(whole) as process:
        assert process.wait(DEADLINE) == 0
    reference, kills = runs.finished(whole.out_dir), 0
    while kills < count:
        mine, problem = replace(config, out_dir=str(folder / f"{tally.cases}")), ""
        with launched(mine) as process:
            kills += kill_one(process, rng.uniform(0.0, seconds), rng)
            try:
                code = process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                code = "none: it hangs"
        if code != 0:
            problem = f"exit code {code}"
        elif runs.finished(mine.out_dir) != reference:
            problem = "another result"
        tally.case(mine.out_dir, problem)
    tally.figures = {"kills": str(kills), "launches": str(tally.cases)}
    return tally
