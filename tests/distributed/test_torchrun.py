"""The command under the real torchrun: on one machine, and on two, each a network namespace with a cable between them.

Catches: a command that only works as tests call it, processes that outlive their launcher or their fellows, a second
machine that needs the first one's folder.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reliability import runs

CONFIG = replace(runs.TINY, gradient_accumulation_steps=2)
KEYS = "n_layer n_head n_embd block_size batch_size gradient_accumulation_steps warmup_iters data_dir device".split()
LAUNCH = [sys.executable, "-m", "torch.distributed.run"]
LIMIT = 60.0  # seconds: torchrun gives its processes 30 to end by themselves


def command(data_dir, out_dir, *more):
    config = replace(CONFIG, data_dir=str(data_dir))
    keys = [f"--{key}={getattr(config, key)}" for key in KEYS]
    return ["-m", "mada_lab", "train", *keys, "--log_interval=1", f"--out_dir={out_dir}", *more]


@contextmanager
def started(words, **environment):
    """A process, and whatever it has started, none of which is left in the end."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_steps(process, out_dir, steps):
    until = time.monotonic() + LIMIT
    while not (Path(out_dir, "metrics.jsonl").exists() and runs.last_steps(out_dir)[0] >= steps):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)


def workers(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes of torchrun in /proc")
def test_a_killed_process_and_a_signal_to_torchrun(tmp_path, data_dir):
    """kill -9 of one process ends all; the run is resumed, and SIGTERM to torchrun ends it with every step saved."""
    out, one_node = tmp_path / "run", [*LAUNCH, "--standalone", "--nproc_per_node=2"]
    with started([*one_node, *command(data_dir, out, "--max_iters=100000", "--checkpoint_interval=2")]) as run:
        wait_for_steps(run, out, 4)
        pids = workers(run)
        assert len(pids) == 2
        os.kill(pids[1], signal.SIGKILL)
        _, errors = run.communicate(timeout=LIMIT)
        assert run.returncode != 0
        assert gone(pids)
        assert errors.count("error: process group, on rank 0 of 2") == 1
    reached, _ = runs.last_steps(out)
    with started([*one_node, *command(data_dir, out, "--max_iters=100000", "--init_from=resume")]) as run:
        wait_for_steps(run, out, reached + 3)
        pids = workers(run)
        run.terminate()
        _, errors = run.communicate(timeout=LIMIT)
        assert gone(pids)
        assert errors.count("and saved; `--init_from=resume` goes on from there") == 1
    row, saved = runs.last_steps(out)
    assert saved in (row, row + 1)


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10, check=True)


@pytest.fixture
def hosts():
    """Two machines: network namespaces, each with an end of one cable and the address 10.77.0.N."""
    names = [f"mada{os.getpid()}{x}" for x in "ab"]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for i, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "cable")
            for link in ("cable", "lo"):
                ip("-n", name, "link", "set", link, "up")
        yield names
    except (OSError, subprocess.SubprocessError) as error:
        if len(made) == 2 and not isinstance(error, FileNotFoundError):
            raise
        pytest.skip(f"network namespaces can't be made here: {getattr(error, 'stderr', '') or error}")
    finally:
        for name in made:
            ip("netns", "del", name)


def test_two_machines(tmp_path, data_dir, hosts):
    """The second machine reads and writes nothing of the first one's run folder, and has one of its own name."""
    out = [tmp_path / f"run{i}" for i in range(2)]
    with (
        started(node(0, hosts, data_dir, out[0]), GLOO_SOCKET_IFNAME="cable") as first,
        started(node(1, hosts, data_dir, out[1]), GLOO_SOCKET_IFNAME="cable") as second,
    ):
        errors = [run.communicate(timeout=2 * LIMIT)[1] for run in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], errors
    assert runs.last_steps(out[0]) == (12, 12)
    assert not out[1].exists()


def node(rank, hosts, data_dir, out):
    sizes = [
        "--nnodes=2",
        f"--node_rank={rank}",
        "--nproc_per_node=2",
        "--master_addr=10.77.0.1",
        "--master_port=29400",
    ]
    more = ("--max_iters=12", "--eval_interval=6", "--parallel=hybrid", "--gradient_accumulation_steps=4")
    return ["ip", "netns", "exec", hosts[rank], *LAUNCH, *sizes, *command(data_dir, out, *more)]
