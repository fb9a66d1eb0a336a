"""The command under the real torchrun: on one machine, and on two, each a network namespace with a cable between them.

Catches: a command that only works as tests call it, processes that outlive their launcher or their fellows, a second
machine that needs the first one's folder.
"""

import functools
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.compute.world import ALONE
from mada_lab.training import restarts
from tests.reliability import elastic, ranks, runs
from tests.reliability.elastic import started

LAUNCH = elastic.LAUNCH
LIMIT = 60.0  # seconds: torchrun gives its processes 30 to end by themselves


def command(data_dir, out_dir, **keys):
    return elastic.command(replace(elastic.CONFIG, data_dir=str(data_dir), out_dir=str(out_dir), **keys))


def wait_for_steps(process, out_dir, steps):
    until = time.monotonic() + LIMIT
    while not (Path(out_dir, "metrics.jsonl").exists() and runs.last_steps(out_dir)[0] >= steps):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes of torchrun in /proc")
def test_a_killed_process_and_a_signal_to_torchrun(tmp_path, data_dir):
    """kill -9 of one process ends all; the run is resumed, and SIGTERM to torchrun ends it with every step saved."""
    out, one_node = tmp_path / "run", [*LAUNCH, "--standalone", "--nproc_per_node=2"]
    with started([*one_node, *command(data_dir, out, max_iters=100000, checkpoint_interval=2)]) as run:
        wait_for_steps(run, out, 4)
        pids = elastic.workers(run)
        assert len(pids) == 2
        os.kill(pids[1], signal.SIGKILL)
        _, errors = run.communicate(timeout=LIMIT)
        assert run.returncode != 0
        assert gone(pids)
        assert errors.count("error: process group, on rank 0 of 2") == 1
    reached, _ = runs.last_steps(out)
    with started([*one_node, *command(data_dir, out, max_iters=100000, init_from="resume")]) as run:
        wait_for_steps(run, out, reached + 3)
        pids = elastic.workers(run)
        run.terminate()
        _, errors = run.communicate(timeout=LIMIT)
        assert gone(pids)
        assert errors.count("and saved; `--init_from=resume` goes on from there") == 1
    row, saved = runs.last_steps(out)
    assert saved in (row, row + 1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes of torchrun in /proc")
def test_a_restarted_run_ends_like_an_undisturbed_one(tmp_path, data_dir):
    config = replace(elastic.CONFIG, data_dir=str(data_dir), max_iters=60, checkpoint_interval=10)
    reference, _ = runs.undisturbed(tmp_path / "whole", config, functools.partial(ranks.in_group, 2))
    mine = replace(config, out_dir=str(tmp_path / "run"))
    with elastic.launched(mine) as run:
        wait_for_steps(run, mine.out_dir, 12)
        os.kill(elastic.workers(run)[1], signal.SIGKILL)
        assert run.wait(elastic.DEADLINE) == 0
    assert runs.finished(mine.out_dir) == reference
    assert "resumes.jsonl" in os.listdir(mine.out_dir)


@pytest.fixture
def restarted(monkeypatch):
    """The second attempt of a launch of torchrun; the name of the launch is the argument."""

    def attempt(name):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")

    return attempt


def test_only_a_run_of_the_same_launch_is_continued(tmp_path, restarted):
    config = replace(elastic.CONFIG, out_dir=str(tmp_path))
    (tmp_path / "checkpoints" / "step_00000005").mkdir(parents=True)
    restarted("another")
    restarts.sign(tmp_path)
    restarted("mine")
    assert restarts.continued(config, ALONE) == config
    restarts.sign(tmp_path)
    assert restarts.continued(config, ALONE) == replace(config, init_from="resume")


def test_a_run_without_a_name_is_found_again(tmp_path, restarted):
    folder = tmp_path / "pydoc-1"
    (folder / "checkpoints" / "step_00000005").mkdir(parents=True)
    restarted("mine")
    restarts.sign(folder)
    found = restarts.continued(elastic.CONFIG, ALONE, tmp_path)
    assert (found.out_dir, found.init_from) == (str(folder), "resume")


def test_trained_weights_are_read_again_if_nothing_was_saved(tmp_path, restarted):
    config = replace(elastic.CONFIG, out_dir=str(tmp_path), init_from="gpt2")
    restarted("mine")
    restarts.sign(tmp_path)
    for name in ("manifest.json", "metrics.jsonl"):
        (tmp_path / name).write_text("{}")
    assert restarts.continued(config, ALONE) == config
    assert os.listdir(tmp_path) == ["launch.json"]


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
    keys = {"max_iters": 12, "eval_interval": 6, "parallel": "hybrid", "gradient_accumulation_steps": 4}
    return ["ip", "netns", "exec", hosts[rank], *LAUNCH, *sizes, *command(data_dir, out, **keys)]
