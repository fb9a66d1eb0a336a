"""Runs that are asked to stop, at the worst moments."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch

from mada_lab.data.prepare import prepare
from mada_lab.system import files
from mada_lab.tasks import language
from mada_lab.training.state import TrainState
from tests.reliability import runs
from tests.reliability.tally import Tally

LIMIT = 10.0  # seconds from a signal to the end
CONFIG = replace(runs.TINY, max_iters=40, gradient_accumulation_steps=3, hyper_start=15)


class Trap:
    """Sends signals to its own process at a chosen place, once `step` steps are done.

    Attributes:
        hang: Seconds of work that follow the signal at that place.
        second: Seconds until a second signal; None: there is none.
    """

    def __init__(self, folder, step, number=signal.SIGTERM, hang=0.0, second=None):
        self.note, self.step, self.number, self.hang, self.second = Path(folder, "sent"), step, number, hang, second
        self.done, self.armed = 0, True

    def spring(self, *_):
        if not self.armed or self.done < self.step:
            return
        self.armed = False
        self.note.write_text(f"{time.time()} {self.done}")
        os.kill(os.getpid(), self.number)
        if self.second is not None:
            time.sleep(self.second)
            os.kill(os.getpid(), self.number)
        until = time.monotonic() + self.hang
        while time.monotonic() < until:
            time.sleep(0.01)

    def before(self, owner, name):
        """Springs whenever `owner.name` is called."""
        original = getattr(owner, name)

        def wrapped(*arguments, **options):
            self.spring()
            return original(*arguments, **options)

        setattr(owner, name, wrapped)

    def in_forward(self):
        """Springs in the second forward pass of a step."""
        start, calls = TrainState.start, [0]

        def began(model, _):
            calls[0] += model.training
            if model.training and calls[0] % 3 == 2:
                self.spring()

        def started(*arguments):
            session = start(*arguments)
            session.model.register_forward_pre_hook(began)
            return session

        TrainState.start = started


#: Where a signal may come, and how the trap gets there.
PHASES = {
    "between two steps": lambda trap: None,
    "in a forward pass": lambda trap: trap.in_forward(),
    "in the optimizer's step": lambda trap: trap.before(torch.amp.GradScaler, "step"),
    "in an evaluation": lambda trap: trap.before(language, "mean_loss"),
    "in a save": lambda trap: trap.before(files, "write_new"),
    "in a forward pass (or a compilation) of a minute": lambda trap: trap.in_forward(),
    "in an evaluation of a minute": lambda trap: trap.before(language, "mean_loss"),
}


def train(config, phase, step, number=signal.SIGTERM, second=None):
    """Trains, with a trap."""
    signal.signal(number, signal.SIG_DFL)  # a shell starts what is in the background with SIGINT ignored
    trap = Trap(config.out_dir, step, number, 60.0 if "minute" in phase else 0.0, second)
    PHASES[phase](trap)

    def at_step(done):
        trap.done = done
        if phase == "between two steps":
            trap.spring()

    runs.train(config, at_step=at_step)


def in_phases(folder, config, repeats, rng, phases=tuple(PHASES)):
    """SIGTERM in each phase of a run, at steps before and after the coefficients begin to move."""
    tally = Tally("exit code 143 within 10 s, no step that was done is lost; resumed, the undisturbed result")
    reference, _ = runs.undisturbed(folder, config)
    slowest = 0.0
    for i, phase in enumerate(phases):
        for repeat in range(repeats):
            mine, step = replace(config, out_dir=str(folder / f"{i}-{repeat}")), rng.randrange(1, config.max_iters - 10)
            Path(mine.out_dir).mkdir()
            code = runs.in_child(train, mine, phase, step)
            problem, seconds = _look(mine, code)
            slowest = max(slowest, seconds)
            if not problem and runs.in_child(runs.train, runs.again(mine)) != 0:
                problem = "not resumed"
            if not problem and runs.finished(mine.out_dir) != reference:
                problem = "another result"
            tally.case(f"{phase}, step {step}", problem)
    tally.figures = {"phases": str(len(phases)), "slowest": f"{slowest:.1f} s"}
    return tally


def _look(config, code):
    """What is wrong with a run that was asked to stop, and how long it took to."""
    if not Path(config.out_dir, "sent").exists():
        return "no signal was sent", 0.0
    sent, done = Path(config.out_dir, "sent").read_text().split()
    seconds = time.time() - float(sent)
    row, saved = runs.last_steps(config.out_dir)
    if code != 143 or seconds > LIMIT:
        return f"exit code {code} after {seconds:.1f} s", seconds
    if saved < int(done) or row > saved:
        return f"{done} steps were done, rows up to {row}, saved {saved}", seconds
    return runs.broken(config.out_dir), seconds


def in_a_compilation(folder, config, waits):
    """SIGTERM some seconds into a real torch.compile; there is a run from the moment that its record is there."""
    tally = Tally("exit code 143 within 10 s, the run can be resumed")
    folder.mkdir()
    slowest = 0.0
    for wait in waits:
        mine = replace(config, compile=True, max_iters=2, warmup_iters=1, out_dir=str(folder / f"{wait}"))
        process = runs.start(runs.train, mine)
        while not Path(mine.out_dir, "metrics.jsonl").exists() and process.exitcode is None:
            time.sleep(0.01)
        process.join(wait)
        process.terminate()
        began = time.monotonic()
        process.join(2 * LIMIT)
        seconds = time.monotonic() - began
        slowest = max(slowest, seconds)
        good = process.exitcode == 143 and seconds < LIMIT and not runs.broken(mine.out_dir)
        resumed = good and runs.in_child(runs.train, replace(runs.again(mine), compile=False)) == 0
        tally.case(f"after {wait} s", "" if resumed else f"exit code {process.exitcode}, {seconds:.1f} s")
    tally.figures = {"slowest": f"{slowest:.1f} s"}
    return tally


def in_data_preparation(folder, repeats, rng):
    """SIGTERM while a data set is made: the process dies of it, and nothing half made is left under its name."""
    tally = Tally("no folder, or a whole one; a second preparation gives the undisturbed bytes")
    whole = {path.name: path.read_bytes() for path in prepare("pydoc", folder / "whole").iterdir()}
    for repeat in range(repeats):
        process = runs.start(prepare, "pydoc", folder / f"{repeat}")
        process.join(rng.uniform(0.0, 0.4))
        process.terminate()
        process.join(LIMIT)
        again = {path.name: path.read_bytes() for path in prepare("pydoc", folder / f"{repeat}").iterdir()}
        good = process.exitcode in (0, -signal.SIGTERM) and again == whole
        tally.case(f"{repeat}", "" if good else f"exit code {process.exitcode}")
    return tally
