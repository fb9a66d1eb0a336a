"""Real runs of a tiny GPT, each in a process of its own that may be killed, out of a server with torch loaded."""

import json
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from mada_lab.checkpoints.folder import available, step_of, verify
from mada_lab.config.keys import TrainConfig
from mada_lab.data.corpus import Corpus
from mada_lab.errors import LabError
from mada_lab.records.run_record import read_run
from mada_lab.system import files
from mada_lab.system.strict_json import loads
from mada_lab.training import gradients, trainer
from mada_optim.sharding import dtensors
from tests.processes import LOADED, PROCESSES
from tests.reliability.faults import FaultyOs

PROCESSES.set_forkserver_preload(
    [*LOADED, "mada_lab.training.trainer", "mada_lab.training.verify", "tests.reliability.runs"]
)
DEADLINE = 60.0  # seconds: what takes longer hangs
CRASHED = 99  # exit code of a traceback

TINY = TrainConfig(
    device="cpu",
    n_layer=1,
    n_head=2,
    n_embd=16,
    block_size=16,
    batch_size=4,
    dropout=0.1,
    max_iters=30,
    warmup_iters=3,
    lr_decay_iters=100,
    hyper_start=5,
    eval_interval=10,
    eval_iters=2,
    log_interval=1,
    checkpoint_interval=5,
)


class Listener:
    """Follows a run, and does something at each step."""

    def __init__(self, at_step):
        self.step = at_step

    def row(self, row):
        pass


def in_child(work, *arguments, deadline=DEADLINE):
    """Runs `work` in a process of its own; returns its exit code, -9 for a SIGKILL, None for one that hung."""
    process = start(work, *arguments)
    process.join(deadline)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def start(work, *arguments):
    """Starts `work` in a process of its own, whose output goes to a file that nobody looks at but on failure."""
    process = PROCESSES.Process(target=guarded, args=(work, arguments))
    process.start()
    return process


def guarded(work, arguments):
    torch.set_num_threads(1)
    with open("/dev/null", "w") as nowhere:
        sys.stderr, errors = nowhere, sys.stderr
        try:
            work(*arguments)
        except LabError as error:
            sys.exit(error.exit_code)
        except Exception:
            traceback.print_exc(file=errors)
            sys.exit(CRASHED)


def train(config, fault=None, poison=(), at_step=lambda done: None):
    """Trains on the prepared data; `fault` is (at, mode), `poison` are steps whose gradient has a NaN in it."""
    if fault:
        files.os = FaultyOs(*fault)
    if poison:
        gradients.accumulate = poisoned(gradients.accumulate, poison)
    corpus = Corpus.open(Path(config.data_dir) / config.dataset)
    return trainer.train(config, corpus, Listener(at_step))


def poisoned(original, steps):
    def accumulate(session, *rest):
        loss = original(session, *rest)
        if session.step + 1 in steps:
            dtensors.local(next(session.model.parameters()).grad).view(-1)[3] = float("nan")
        return loss

    return accumulate


def count_changes(config):
    """Trains, and returns the changes of the disk that it took."""
    files.os = counter = FaultyOs()
    try:
        train(config)
    finally:
        files.os = os
    return counter.changes


def undisturbed(folder, config, launch=in_child):
    """What the run comes to, and the seconds that it takes."""
    folder.mkdir()
    in_child(time.sleep, 0)  # the server starts
    whole = replace(config, out_dir=str(folder / "undisturbed"))
    began = time.monotonic()
    assert launch(train, whole) == 0
    return finished(whole.out_dir), time.monotonic() - began


def again(config):
    """The configuration that goes on with what is in the folder, or begins if nothing has begun."""
    begun = (Path(config.out_dir) / "manifest.json").exists()
    return replace(config, init_from="resume" if begun else "scratch")


def finished(folder):
    """What a run came to, without times: its rows, its summary, the digest of its last checkpoint."""
    run = read_run(Path(folder))
    rows = [{key: x for key, x in row.items() if key not in ("seconds", "speed")} for row in run.rows]
    assert rows, "nothing was recorded"
    summary = {key: x for key, x in (run.summary or {}).items() if key not in ("seconds", "peak_memory_bytes")}
    return json.dumps([rows, summary, digest(folder)])


def digest(folder):
    """The digest of the state in the newest checkpoint, which is verified; None if there is none."""
    for path in available(Path(folder))[-1:]:
        verify(path)
        return dict(loads((path / "values.json").read_bytes())["tree"]["dict"])["digest"]["value"]
    return None


def last_steps(folder):
    """Steps of the last row, and of the newest checkpoint; 0 where there is none."""
    folder = Path(folder)
    rows = read_run(folder).rows if (folder / "manifest.json").exists() else []
    return max([row["step"] for row in rows], default=0), max(map(step_of, available(folder)), default=0)


def broken(folder):
    """What in a run folder a reader would stumble over, though only a process died: there must be nothing."""
    try:
        last_steps(folder)
        for path in available(Path(folder)):
            verify(path)
    except LabError as error:
        return str(error)
    return ""
