"""Sweeps: workers that share points through a storage, die, come back, and meet points that fail.

Catches: a point that two workers compute or that none does, the point of a killed worker begun again or left undone, a
failure that ends the sweep or is forgotten, another sweep's results taken for this one's.
"""

import os
import re
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import mada_lab
from mada_lab import cli
from mada_lab.cli import compare as compare_command
from mada_lab.cli import sweep as command
from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.experiments.comparison.compare import plans
from mada_lab.experiments.sweeps.claims import Claims
from mada_lab.experiments.sweeps.complete import complete
from mada_lab.experiments.sweeps.join import claims_of, join
from mada_lab.experiments.sweeps.plan import Plan
from mada_lab.experiments.sweeps.storage import open_storage
from mada_lab.experiments.sweeps.worker import SweepStopped, Worker
from mada_lab.records.run_record import read_run
from mada_lab.training import trainer
from tests.app.conftest import Silent
from tests.app.test_cli import QUICK
from tests.reliability import runs

POINTS, WORKERS, GRACE = 12, 4, 3.0
CONFIGS = Path(__file__).parents[2] / "configs"
STORAGES = ["sweep.journal", "sqlite:///{}/sweep.db"]


class Quiet(Silent):
    """Follows a worker, and keeps what it was told; may do something at each step."""

    def __init__(self, at_step=lambda done: None):
        super().__init__()
        self.step, self.messages, self.begun = at_step, [], []

    def standing(self, settled, failed, size):
        pass

    def begins(self, name, config):
        self.begun.append(name)

    def told(self, message):
        self.messages.append(message)


def storage_in(folder, name=STORAGES[0]):
    name = name.format(folder)
    return name if "://" in name else str(folder / name)


def worker(plan, folder, storage=STORAGES[0], grace=GRACE, listen=None):
    plan, study = join(plan, open_storage(storage_in(folder, storage)), "sweep", plan.base if plan else runs.TINY)
    return Worker(plan, claims_of(study, grace), folder / "runs", listen or Quiet())


def claim_all(plan, folder, storage):
    """Claims and settles points until there is none, without computing anything; notes its claims in a file."""
    claims = worker(plan, folder, storage).claims
    (folder / f"ready.{os.getpid()}").touch()
    while len(list(folder.glob("ready.*"))) < WORKERS:  # else the first has done it all when the last arrives
        time.sleep(0.001)
    taken = []
    while found := claims.take(plan.size, 2):
        taken += [claim.point for claim in found]
        for claim in found:
            claims.settle(claim, 0.0)
    (folder / f"taken.{os.getpid()}").write_text("\n".join(map(str, taken)))


@pytest.mark.parametrize("storage", STORAGES, ids=["journal", "sqlite"])
def test_each_point_has_one_worker(tmp_path, storage):
    """Workers start together on an empty storage and do nothing but claim, which is when they meet."""
    plan = Plan(runs.TINY, grid={"seed": list(range(POINTS))})
    started = [runs.start(claim_all, plan, tmp_path, storage) for _ in range(WORKERS)]
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    taken = [int(x) for path in tmp_path.glob("taken.*") for x in path.read_text().split()]
    assert sorted(taken) == list(range(POINTS))


def compute(plan, folder, delay=0.0):
    worker(plan, folder, listen=Quiet(lambda done: time.sleep(delay))).work()


def tiny_plan(tiny, **grid):
    return Plan(replace(tiny, checkpoint_interval=5, lr_decay_iters=30), grid=grid)


def test_the_point_of_a_killed_worker_is_taken_up_at_its_checkpoint(tiny, corpus, tmp_path):
    plan = tiny_plan(tiny, seed=[1, 2])
    victim = runs.start(compute, plan, tmp_path, 0.1)
    first = tmp_path / "runs" / "seed=1"
    deadline = time.monotonic() + 60
    while not list(first.glob("checkpoints/step_*10")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    follower = worker(plan, tmp_path, grace=1.0)
    results = follower.work()
    assert [(result.name, result.error) for result in results] == [("seed=1", None), ("seed=2", None)]
    run = read_run(first)
    assert [resume["step"] >= 10 for resume in run.resumes] == [True]
    whole = complete(replace(plan.config({"seed": 1}), out_dir=str(tmp_path / "whole")), corpus, Silent())
    assert whole.series("train_loss") == run.series("train_loss")
    assert worker(plan, tmp_path).work() == results


def test_a_worker_that_was_only_slow_gives_up_what_others_took(tiny, tmp_path):
    """Its trial is failed while it trains; it must not settle the point as well."""
    plan, slow = tiny_plan(tiny, seed=[1]), Quiet()
    first = worker(plan, tmp_path, grace=0.3, listen=slow)

    def bury(done):
        if done == 5 and not slow.messages:
            [trial] = first.claims.standing().held.values()
            assert first.claims.bury(trial)
            time.sleep(0.3)

    slow.step = bury
    assert [result.error for result in first.work()] == [None]
    assert slow.messages == ["point 0: others took this worker for dead, and take the point up"]
    assert slow.begun == ["seed=1", "seed=1"]
    assert len(read_run(tmp_path / "runs" / "seed=1").resumes) == 1


def test_a_failure_is_a_result_and_the_sweep_goes_on(tiny, tmp_path):
    plan = Plan(replace(tiny, decay_lr=False, max_skipped_steps=2), grid={"learning_rate": [1e30, 1e-3]})
    bad, good = worker(plan, tmp_path).work()
    assert good.error is None
    assert "NumericsError" in bad.error
    again = Quiet()
    assert worker(plan, tmp_path, listen=again).work() == [bad, good]
    assert again.begun == []
    worker(plan, tmp_path).claims.retry_failed()
    assert worker(plan, tmp_path, listen=again).work() == [bad, good]
    assert again.begun == [bad.name]


def test_a_point_that_kills_its_workers_is_given_up(tiny, tmp_path):
    plan = tiny_plan(tiny, seed=[1])
    for _ in range(3):
        first = worker(plan, tmp_path)
        first.claims.take(1)
        [trial] = first.claims.standing().held.values()
        first.claims.bury(trial)
    [result] = worker(plan, tmp_path).work()
    assert "3 workers ended in it" in result.error


def test_a_search_draws_its_trials_once(tiny, tmp_path):
    space = {"learning_rate": "1e-4..1e-2:log", "n_embd": "16..32", "optimizer": ["adamw", "mada"]}
    plan = Plan(replace(tiny, max_iters=4, n_head=1, min_lr=0.0), search=space, trials=4)
    plan.check()
    started = [runs.start(compute, plan, tmp_path) for _ in range(2)]
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    results = worker(plan, tmp_path).work()
    configs = [read_run(result.folder).manifest["config"] for result in results]
    assert len({config["learning_rate"] for config in configs}) == plan.trials
    assert all(1e-4 <= config["learning_rate"] <= 1e-2 and 16 <= config["n_embd"] <= 32 for config in configs)
    assert len(list((tmp_path / "runs").iterdir())) == plan.trials


def test_a_storage_belongs_to_one_plan(tiny, tmp_path):
    plan = tiny_plan(tiny, seed=[1])
    worker(plan, tmp_path)
    assert worker(None, tmp_path).plan.to_json() == plan.to_json()
    with pytest.raises(ConfigError, match=r"got one with n_embd=16; repeat the old values"):
        worker(replace(plan, base=replace(plan.base, n_embd=32)), tmp_path)
    worker(replace(plan, base=replace(plan.base, data_dir="elsewhere")), tmp_path)


def test_a_folder_with_another_run_is_refused(tiny, corpus):
    complete(tiny, corpus, Silent())
    with pytest.raises(ConfigError, match=r"expected weight_decay=0.5, got None"):
        complete(replace(tiny, weight_decay=0.5), corpus, Silent())


def test_half_a_line_in_the_journal_is_dropped(tiny, tmp_path):
    """As a full disk leaves it; the line after it could not be read."""
    plan = tiny_plan(tiny, seed=[1, 2])
    worker(plan, tmp_path)
    with open(tmp_path / "sweep.journal", "ab") as file:
        file.write(b'{"op_code":4,"stu')
    assert worker(plan, tmp_path).claims.take(2)[0].point == 0
    assert worker(plan, tmp_path).claims.take(2)[0].point == 1
    (tmp_path / "sweep.journal").write_text("no journal\nat all\n")
    with pytest.raises(CheckpointError, match="expected an optuna journal"):
        worker(plan, tmp_path)


WRONG = [
    ({"grid": {"beta1": [0.5, 1.5]}}, r"beta1: expected a number in \[0, 1\), got 1.5"),
    ({"grid": {"betta1": [0.5]}}, "did you mean 'beta1"),
    ({"grid": {"seed": [1, 1]}}, "expected distinct values"),
    ({"grid": {"out_dir": ["a"]}}, "expected one that changes the result"),
    ({"search": {"beta1": "0.5..0.9"}}, "expected at least 1 with --search"),
    ({"search": {"beta1": "0.9..0.5"}, "trials": 2}, "expected a range"),
    ({"search": {"beta1": "high"}, "trials": 2}, r"expected low\.\.high"),
    ({}, "expected a grid or a search"),
]


@pytest.mark.parametrize(("plan", "message"), WRONG, ids=[message[:20] for _, message in WRONG])
def test_a_wrong_plan_is_refused_before_anything_is_computed(plan, message):
    with pytest.raises(ConfigError, match=message):
        partial(Plan, runs.TINY)(**plan).check()


@pytest.mark.parametrize("at", ["in a run", "after its last step"])
def test_a_signal_ends_the_worker_and_frees_its_point(tiny, tmp_path, monkeypatch, at):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    plan, quiet = tiny_plan(tiny, seed=[1, 2]), Quiet()
    if at == "in a run":
        quiet.step = lambda done: done == 10 and stop()
    else:  # the loop doesn't look at signals any more
        summary = trainer.summary
        monkeypatch.setattr(trainer, "summary", lambda *args: stop() and summary(*args))
    with pytest.raises(SweepStopped, match="stopped by SIGTERM") as stopped:
        worker(plan, tmp_path, listen=quiet).work()
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert quiet.begun == ["seed=1"]
    monkeypatch.undo()
    standing = worker(plan, tmp_path).claims.standing()
    assert (len(standing.settled), standing.held) == (0 if at == "in a run" else 1, {})
    began = time.monotonic()
    assert [result.error for result in worker(plan, tmp_path, grace=60.0).work()] == [None, None]
    assert time.monotonic() - began < 30


def test_a_point_without_its_data_fails_alone(tiny, corpus, tmp_path):
    plan = Plan(replace(tiny, max_iters=3), grid={"dataset": ["openwebtext", "pydoc"]})
    missing, there = worker(plan, tmp_path).work()
    assert missing.error.startswith("DataError: data set openwebtext")
    assert there.error is None


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("sweeps/*.toml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_is_valid(path):
    given, base = command.read([str(path)])
    Plan(base, grid=given.grid, search=given.search).check()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("compare/*.toml")), ids=lambda path: path.stem)
def test_every_shipped_comparison_is_valid(path):
    given, cases, base = compare_command.read([str(path)])
    assert len(plans(base, cases, given.seeds)[0].points) >= 6


def test_options_of_the_command_line():
    words = [
        "--grid",
        "beta1=.5,.8",
        "--grid=optimizer=adamw,mada",
        "--trials=3",
        "--max_iters=200",
        "--search=eps=1e-9..1e-7:log",
    ]
    given, base = command.read(words)
    assert given.grid == {"beta1": [0.5, 0.8], "optimizer": ["adamw", "mada"]}
    assert given.search == {"eps": "1e-9..1e-7:log"}
    assert (given.trials, base.max_iters) == (3, 200)
    for words, message in (
        (["--trials=x"], "expected a whole number"),
        (["--grid", "beta1=x"], "expected a number, got 'x'"),
    ):
        with pytest.raises(ConfigError, match=message):
            command.read(words)


def test_one_file_alone_knows_optuna():
    """Its private names too: whatever else is read of a storage goes through `storage.py`."""
    package = Path(mada_lab.__file__).parent
    private = re.compile(r"import optuna|from optuna|optuna\.|\._(?:storage|study_id|trial_id|suggest)\b")
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if private.search(path.read_text())}
    assert files == {"experiments/sweeps/storage.py"}


REFUSED = [
    (["sweep", "--grid=optimizer=adamw,mda"], 2, "did you mean 'mada'"),
    (["sweep", "--grid=warmup_iters=3,40"], 2, "warmup_iters: expected at most max_iters=30"),
    (["sweep", "--search=warmup_iters=3..40", "--trials=2"], 2, "warmup_iters: expected at most max_iters=30"),
    (["sweep", "--grid=rho=0.5,1", "--optimizer=adamw"], 2, "key rho"),
    (["sweep", "--grid=beta2=0.9,0.99", "--optimizer=automuon"], 2, "key beta2: expected at least 0.99"),
    (["sweep", "--grid=beta1=0.5,0.001", "--optimizer=mada", "--bounds=beta1=0.01:0.9"], 2, "beta1"),
    (["sweep", "--grid=dataset=pydoc,openwebtext"], 3, "data set openwebtext"),
    (["sweep"], 2, "expected points, got none; give --grid or --search"),
    (["sweep", "--grid=learning_rate"], 2, "option --grid: expected KEY=V1,V2,..., got learning_rate"),
    (["sweep", "--grid=seed=1", "--grid=seed=2"], 2, "expected each key once, got seed, seed"),
    (["sweep", "--grid=learning_rate=1e-3,2e-3", "--learning_rate=3e-3"], 2, "--learning_rate=3e-3: expected no value"),
    (["compare", "--optimizers=adamw,mada", "--seed=3"], 2, "--seed=3: expected no value for all runs"),
    (["compare", "--optimizers=adamw,mda"], 2, "did you mean 'mada'"),
    (["compare", "--optimizers=adamw:rho=1"], 2, "key rho"),
    (["compare", "--dataset=openwebtext"], 3, "data set openwebtext"),
]


@pytest.mark.parametrize(("words", "code", "message"), REFUSED, ids=[" ".join(words) for words, *_ in REFUSED])
def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(tmp_path, data_dir, capsys, words, code, message):
    """And the corrected command finds nothing in its way."""
    shared = [word for word in QUICK if "warmup" not in word]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, *shared, "--max_iters=30", f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}"])
    assert ended.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sweep_says_what_it_found_and_its_folder_can_be_reported(tmp_path, data_dir, capsys, monkeypatch):
    """Two of four points, and then all: the grid says so too."""
    out = tmp_path / "out"
    words = ["sweep", "--grid=beta1=0.5,0.8", "--grid=beta2=0.9,0.99", *QUICK, f"--data_dir={data_dir}", f"--out={out}"]
    take = Claims.take

    def take_two(self, points, most=1):
        if len(self.standing().settled) == 2:
            raise SweepStopped(signal.SIGTERM)
        return take(self, points, most)

    monkeypatch.setattr(Claims, "take", take_two)
    with pytest.raises(SystemExit):
        cli.main([*words, "--optimizer=mada"])
    monkeypatch.setattr(Claims, "take", take)
    cli.main(["grid", str(out)])
    assert "2 of 4 points; the command of the sweep trains the rest" in capsys.readouterr().out
    cli.main([*words, "--optimizer=mada"])
    said = capsys.readouterr().out.splitlines()
    losses = [float(line.split("|")[2]) for line in said if line.startswith("| beta1")]
    assert losses == sorted(losses)
    assert len(losses) == 4
    best = min((out / "runs").iterdir(), key=lambda folder: read_run(folder).summary["final_val_loss"])
    assert f"best: {best}" in said
    assert f"`mada-lab report {out}` writes a page about them" in said
    cli.main(["grid", str(out)])
    assert "4 of 4 points\n" in capsys.readouterr().out
    cli.main(["report", str(out)])
    assert capsys.readouterr().out.count("final validation loss") == 4
    assert (out / "report.html").exists()


def test_a_failed_point_is_in_the_exit_code(tmp_path, data_dir, capsys):
    words = [word for word in QUICK if "hyper_start" not in word]
    words += [f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}", "--decay_lr=False", "--max_skipped_steps=2"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", "--grid=learning_rate=1e30,1e-3", "--optimizer=adamw", *words])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "sweep: 1 of 2 points, 1 failed" in said.out
    assert "--retry-failed tries them again" in said.err
