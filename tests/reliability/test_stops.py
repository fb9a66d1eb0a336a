"""Runs that are asked to stop, and folders that two processes want.

Catches: a signal that is heard too late or not at all, a step that is lost, a stop in the middle of a step that is
taken for its end, an exit code that says something else.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.checkpoints.folder import available
from mada_lab.errors import CheckpointError, ConfigError, Interrupted
from mada_lab.system import run_lock, signals
from mada_lab.training import resume
from mada_lab.training.trainer import train
from tests.app.conftest import Silent
from tests.reliability import runs, stops


@pytest.fixture
def config(data_dir, tmp_path):
    return replace(stops.CONFIG, data_dir=str(data_dir), out_dir=str(tmp_path))


def test_sigterm_in_the_phases_of_a_run(tmp_path, config):
    quick = [phase for phase in stops.PHASES if "minute" not in phase]
    tally = stops.in_phases(tmp_path / "stops", config, 1, random.Random(0), quick)
    assert tally.failures == []
    assert tally.cases == len(quick) == 5


def impatient(*arguments):
    signals.PATIENCE = 0.3
    stops.train(*arguments)


@pytest.mark.parametrize("phase", [phase for phase in stops.PHASES if "minute" in phase])
def test_work_of_a_minute_is_given_up(tmp_path, config, phase):
    """Neither random numbers nor data have moved: the resumed run is the undisturbed one."""
    reference, _ = runs.undisturbed(tmp_path / "reference", config)
    assert runs.in_child(impatient, config, phase, 12, deadline=20) == 143
    assert runs.in_child(runs.train, runs.again(config)) == 0
    assert runs.finished(tmp_path) == reference


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_other_signals_have_their_own_codes(config, tmp_path, number, code):
    assert runs.in_child(stops.train, config, "between two steps", 7, number) == code
    assert runs.last_steps(tmp_path) == (6, 7)


def test_a_second_signal_ends_the_process_at_once(config, tmp_path):
    phase = "in a forward pass (or a compilation) of a minute"
    began = time.monotonic()
    assert runs.in_child(stops.train, config, phase, 7, signal.SIGTERM, 0.6) == 143
    assert time.monotonic() - began < signals.PATIENCE
    assert runs.last_steps(tmp_path) == (7, 5)


def test_one_request_that_arrives_twice_is_one(config, tmp_path):
    """As when a terminal and a launcher both pass it on."""
    assert runs.in_child(stops.train, config, "between two steps", 7, signal.SIGTERM, 0.1) == 143
    assert runs.last_steps(tmp_path) == (6, 7)


def test_a_signal_that_was_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.Signals() as heard:
            os.kill(os.getpid(), signal.SIGINT)
            heard.check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (*signals.SIGNALS, signal.SIGALRM)]
    with signals.Signals() as heard:
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(signals.Stop):
            heard.check()
    assert [signal.getsignal(number) for number in (*signals.SIGNALS, signal.SIGALRM)] == before


def test_the_command_stops_in_one_line(config, tmp_path):
    keys = ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "warmup_iters", "data_dir", "out_dir")
    words = [f"--{key}={getattr(config, key)}" for key in keys]
    words += ["--max_iters=100000", "--device=cpu", "--log_interval=1"]
    command = subprocess.Popen(
        [sys.executable, "-m", "mada_lab", "train", *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (Path(tmp_path, "metrics.jsonl").exists() and runs.last_steps(tmp_path)[0] >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    command.terminate()
    out, err = command.communicate(timeout=15)
    assert command.returncode == 143
    assert err.splitlines()[-1].startswith("stopped by SIGTERM at step ")
    assert "Traceback" not in err
    assert out == ""


def test_a_run_that_is_stopped_before_its_first_step_can_be_resumed(tiny, corpus, tmp_path, monkeypatch):
    opens = resume.open_record
    monkeypatch.setattr(resume, "open_record", lambda state: os.kill(os.getpid(), signal.SIGTERM) or opens(state))
    with pytest.raises(Interrupted, match="at step 0, and saved; `--init_from=resume` goes on") as caught:
        train(tiny, corpus, Silent())
    monkeypatch.undo()
    assert (caught.value.resumable, caught.value.exit_code, runs.last_steps(tmp_path / "run")) == (True, 143, (0, 0))
    assert [path.name for path in available(tmp_path / "run")] == ["step_00000000"]
    assert train(replace(tiny, init_from="resume"), corpus, Silent()).step == 30


def test_an_interrupt_without_a_checkpoint_does_not_speak_of_resuming():
    error = Interrupted(signal.SIGINT)
    assert (str(error), error.resumable, error.exit_code) == ("stopped by SIGINT", False, 130)


def test_a_second_process_is_refused(tiny, corpus, tmp_path):
    with run_lock.hold(tmp_path / "run"), pytest.raises(CheckpointError, match="got another that trains in it"):
        train(tiny, corpus, Silent())
    train(tiny, corpus, Silent())


def test_a_lock_ends_with_its_process(tmp_path):
    assert runs.in_child(hold_and_die, tmp_path) == -9
    with run_lock.hold(tmp_path):
        pass


def hold_and_die(folder):
    with run_lock.hold(folder):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_folder_that_cannot_be_made(tiny, corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder that can be made and written, got File exists"):
        train(replace(tiny, out_dir=str(tmp_path / "file" / "run")), corpus, Silent())
