"""One training run on several processes: the run that one process would do, and one end for all of them.

Catches: data or dropout that depend on the number of processes, gradients that are not means, a checkpoint that only
the processes that wrote it can read, processes that part ways at a signal, a failure or a number that is none.
"""

import json
import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.checkpoints.folder import available
from mada_lab.compute import world
from mada_lab.errors import ConfigError, DistributedError
from mada_lab.records.run_record import read_run
from mada_lab.training import gradients
from mada_optim.sharding import dtensors
from tests.reliability import ranks, resumes, runs

CONFIG = replace(runs.TINY, gradient_accumulation_steps=4, max_iters=8, eval_interval=4, eval_iters=3, hyper_start=1)
KINDS = {
    "ddp 2": (2, None, "ddp"),
    "fsdp 2": (2, None, "fsdp"),
    "fsdp 4": (4, None, "fsdp"),
    "hybrid 2 x 2": (4, 2, "hybrid"),
}


@pytest.fixture
def config(data_dir, tmp_path):
    return replace(CONFIG, data_dir=str(data_dir), out_dir=str(tmp_path / "run"))


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """The rows and the summary of one process."""
    config = replace(CONFIG, data_dir=str(data_dir), out_dir=str(tmp_path_factory.mktemp("alone") / "run"))
    assert runs.in_child(runs.train, config) == 0
    return read_run(Path(config.out_dir))


def assert_alike(ours, theirs):
    """What is measured in two rows; a hypergradient adds up the rounding of every step that its trace remembers."""
    plain = ("train_loss", "val_loss", "lr", "tokens", "skipped_steps")
    mine, other = ({**{key: row[key] for key in plain if key in row}, **row["coefficients"]} for row in (ours, theirs))
    assert mine == pytest.approx(other, rel=1e-6, abs=1e-6)
    assert ours["hypergradients"] == pytest.approx(theirs["hypergradients"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_of_one_process(config, alone, kind):
    size, local_size, parallel = KINDS[kind]
    assert ranks.in_group(size, runs.train, replace(config, parallel=parallel), local_size=local_size) == 0
    run = read_run(Path(config.out_dir))
    assert len(run.rows) == len(alone.rows) == 9
    for ours, theirs in zip(run.rows, alone.rows, strict=True):
        assert_alike(ours, theirs)
    assert run.summary["final_train_loss"] == pytest.approx(alone.summary["final_train_loss"], rel=1e-6)
    assert run.manifest["processes"] == size


def rows_of(config, out, kind, **keys):
    """The rows of a run of `mada`, whose hypergradients are of what the keys say."""
    size, local_size, parallel = KINDS[kind]
    config = replace(
        config, optimizer="mada", grad_clip=0.05, parallel=parallel, out_dir=f"{config.out_dir}{out}", **keys
    )
    assert ranks.in_group(size, runs.train, config, local_size=local_size) == 0
    return read_run(Path(config.out_dir)).rows


@pytest.mark.parametrize("kind", ["ddp 2", "fsdp 2"])
def test_the_first_passes_of_all_processes_are_observed(config, kind):
    """Where each has one pass, these are the whole gradient."""
    keys = {"gradient_accumulation_steps": 2, "max_iters": 4}
    first, whole = (rows_of(config, x, kind, hyper_observe=x, **keys) for x in ("first", "unclipped"))
    for ours, theirs in zip(first, whole, strict=True):
        assert_alike(ours, theirs)
    assert any(first[-1]["hypergradients"].values())


def test_the_first_pass_is_observed_however_gradients_are_shared(config):
    """By a message of its own where they are exchanged with the last pass, else by an exchange."""
    ddp, fsdp = (rows_of(config, x, f"{x} 2", hyper_observe="first", max_iters=4) for x in ("ddp", "fsdp"))
    for ours, theirs in zip(fsdp, ddp, strict=True):
        assert_alike(ours, theirs)
    whole = rows_of(config, "step", "ddp 2", max_iters=4)
    assert ddp[-1]["hypergradients"] != pytest.approx(whole[-1]["hypergradients"], rel=0.1)


def test_a_signal_to_one_stops_all_and_any_number_goes_on(config, alone):
    """Two processes with shards, then one, then two with replicas."""
    assert ranks.in_group(2, resumes.train_until, replace(config, parallel="fsdp"), 2, ()) == 143
    assert runs.last_steps(config.out_dir) == (2, 3)
    assert runs.in_child(resumes.train_until, runs.again(config), 5, ()) == 143
    assert ranks.in_group(2, runs.train, runs.again(config)) == 0
    run = read_run(Path(config.out_dir))
    for ours, theirs in zip(run.rows, alone.rows, strict=True):
        assert_alike(ours, theirs)
    assert [note["exact"] for note in run.resumes] == [True, True]
    assert [note["changed"].get("processes") for note in run.resumes] == [{"from": 2, "to": 1}, {"from": 1, "to": 2}]


def killing(config, number):
    """Rank 1 meets its end in step 3."""

    def at_step(done):
        if done == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), number)

    runs.train(config, at_step=at_step)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_process_that_is_killed_ends_the_others(config, parallel):
    began = time.monotonic()
    codes = ranks.Group(2, killing, replace(config, parallel=parallel, max_iters=10_000), signal.SIGKILL).codes(30)
    assert codes == [6, -9]
    assert time.monotonic() - began < 20


def test_a_process_that_hangs_ends_the_others(config):
    group = ranks.Group(2, killing, replace(config, distributed_timeout=2.0), signal.SIGSTOP)
    group.processes[0].join(20)
    assert group.codes(0) == [6, None]


def differing(config):
    runs.train(replace(config, learning_rate=1e-3 * (1 + int(os.environ["RANK"]))))


def test_processes_with_different_configurations_are_refused(config):
    assert ranks.in_group(2, differing, config) == 6
    assert not Path(config.out_dir).exists()


@pytest.mark.parametrize(
    ("sizes", "change", "message"),
    [
        (
            (2, 2),
            {"gradient_accumulation_steps": 3},
            "expected a multiple of the 2 processes .* got 3; set it to 2, for example",
        ),
        ((2, 2), {"first_accumulation": 3}, "key first_accumulation: expected a multiple of the 2 processes"),
        ((2, 2), {"device": "cuda:1"}, "key device: expected auto, cpu or cuda"),
        ((4, 3), {"parallel": "hybrid"}, "as many processes on each machine"),
    ],
)
def test_what_processes_cannot_share_is_refused(config, sizes, change, message):
    with pytest.raises(ConfigError, match=message):
        world.require_shares(replace(config, **change), *sizes)


def test_half_an_environment_is_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistributedError, match=r"environment, RANK.*: expected what torchrun sets"):
        world.group(config).__enter__()


def test_an_error_of_the_first_is_one_of_all(config):
    """The folder holds another run, which only the first process looks at."""
    Path(config.out_dir).mkdir()
    Path(config.out_dir, "manifest.json").write_text("{}")
    assert ranks.in_group(2, runs.train, config) == 2


def with_a_bad_loss(config):
    original = gradients.accumulate

    def accumulate(session, *rest):
        bad = session.world.rank == 1 and session.step == 2
        return original(session, *rest) * (math.nan if bad else 1.0)

    gradients.accumulate = accumulate
    runs.train(config)


def test_a_loss_that_is_not_finite_on_one_stops_the_step_of_all(config):
    assert ranks.in_group(2, with_a_bad_loss, config) == 0
    assert [row["skipped_steps"] for row in read_run(Path(config.out_dir)).rows][1:4] == [0, 0, 1]


def test_only_the_first_process_writes(config):
    """Each process notes what it changed on the disk."""
    assert ranks.in_group(2, counting, config) == 0
    first, second = (json.loads(Path(f"{config.out_dir}.{rank}").read_text()) for rank in range(2))
    assert first > 20
    assert second == 0
    assert len(available(Path(config.out_dir))) == 2


def counting(config):
    Path(f"{config.out_dir}.{os.environ['RANK']}").write_text(str(len(runs.count_changes(config))))


HALF = replace(CONFIG, dtype="float16", dropout=0.0, max_iters=12, digest_interval=1)


def overflowing(config):
    """An element of one process's shard of the gradient is infinite in step 3, of the other's in step 5."""
    original = gradients.accumulate

    def accumulate(session, *rest):
        loss = original(session, *rest)
        if session.world.rank == {3: 0, 5: 1}.get(session.step + 1):
            dtensors.local(next(session.model.parameters()).grad).view(-1)[0] = math.inf
        return loss

    gradients.accumulate = accumulate
    Path(f"{config.out_dir}.{os.environ['RANK']}").write_text(json.dumps(runs.train(config).scaler.state_dict()))


def test_the_loss_scale_is_one_on_all(config):
    """float16 starts at a scale of 2^16; a step that overflows in one shard is skipped, and halves it, on all."""
    mine = replace(HALF, data_dir=config.data_dir, out_dir=config.out_dir, parallel="fsdp")
    assert ranks.in_group(2, overflowing, mine) == 0
    scales = [json.loads(Path(f"{config.out_dir}.{rank}").read_text()) for rank in range(2)]
    assert scales[0] == scales[1]
    rows = read_run(Path(config.out_dir)).rows
    skipped = [row["skipped_steps"] for row in rows]
    assert skipped[2:6] == [skipped[2], skipped[2] + 1, skipped[2] + 1, skipped[2] + 2]
    assert scales[0]["scale"] == 2.0 ** (16 - skipped[-1])


def test_float16_with_shards_is_float16_without(config):
    found = []
    for parallel in ("ddp", "fsdp"):
        mine = replace(HALF, data_dir=config.data_dir, out_dir=f"{config.out_dir}-{parallel}", parallel=parallel)
        assert ranks.in_group(2, runs.train, mine) == 0
        found.append([row["train_loss"] for row in read_run(Path(mine.out_dir)).rows[1:]])
    assert found[1] == pytest.approx(found[0], rel=2e-3)
