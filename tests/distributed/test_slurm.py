"""The SLURM template, with stand-ins for SLURM's commands: what it starts, and what it does near its time limit.

Catches: a shell error, arguments that are lost or split on their way to torchrun, a job that isn't queued again.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm.sbatch"
STANDINS = {
    "srun": 'shift; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> "$SEEN"; fi',
    "scancel": 'echo "$@" >> "$SEEN"; kill -TERM "$(cat "$SEEN.pid")"',
    "torchrun": 'printf "%s\\n" "$@" >> "$SEEN"; echo $$ > "$SEEN.pid"; exec sleep "$WORK"',
}


@pytest.fixture
def start(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STANDINS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "node[1-2]", "NNODES": "2", "NODEID": "1", "GPUS_ON_NODE": "8"}
    settings = {"OUT": str(tmp_path / "run"), "SEEN": str(tmp_path / "seen"), "WORK": "0"}
    environment = {**os.environ, **settings, **{f"SLURM_{key}": x for key, x in slurm.items()}}
    environment["PATH"] = f"{folder}:{environment['PATH']}"

    def started(**more):
        words = ["bash", SCRIPT, "a b.toml", "--seed=3"]
        return subprocess.Popen(words, env={**environment, **more}, stderr=subprocess.PIPE, text=True)

    return started


def seen(tmp_path):
    return (tmp_path / "seen").read_text().splitlines()


@pytest.mark.parametrize("begun", [False, True])
def test_what_it_starts(start, tmp_path, begun):
    if begun:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "manifest.json").touch()
    job = start()
    job.communicate(timeout=20)
    assert job.returncode == 0
    assert seen(tmp_path) == [
        *("--nnodes=2", "--node_rank=1", "--nproc_per_node=8", "--master_addr=node1", "--master_port=29400"),
        *("-m", "mada_lab", "train", "a b.toml", "--seed=3", f"--out_dir={tmp_path / 'run'}"),
        f"--init_from={'resume' if begun else 'scratch'}",
    ]


def test_near_its_time_limit_it_stops_the_run_and_queues_again(start, tmp_path):
    job = start(WORK="60")
    until = time.monotonic() + 20
    while not (tmp_path / "seen.pid").exists() or not (tmp_path / "seen.pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=20)
    assert seen(tmp_path)[-2:] == ["--signal=TERM 7", "requeue 7"]
