"""The progress bar in a terminal of 80 columns: losses and what is learned, whole, and nothing that stands still."""

import fcntl
import io
import math
import os
import pty
import re
import struct
import sys
import termios
import weakref

import pytest
from tqdm import tqdm

from mada_lab.cli.bars import FittedBar, ProgressBar, SweepBar, duration, short
from mada_lab.config.keys import TrainConfig

START = {"beta1": 0.9, "beta2": 0.95, "beta3": 0.0, "rho": 0.6, "c": 1.0, "gamma": 1.0}
MOVED = {"beta1": 0.912, "beta2": 0.9513, "beta3": 0.123, "rho": 0.612, "c": 0.9851, "gamma": 0.9781}
LR = {"lr": 0.0117}


def row(values, learned, loss=1.8321, val=None):
    hypergradients = dict.fromkeys(learned, 0.1)
    found = {"train_loss": loss, "coefficients": values, "hypergradients": hypergradients}
    return found if val is None else found | {"val_loss": val}


@pytest.fixture
def line(monkeypatch):
    """Shows rows in a bar without a terminal, and returns its line."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)

    def show(name="mada", steps=500, done=0, seconds=0.0, rows=(), columns=None):
        with ProgressBar(steps, name) as progress:
            bar = progress.bar
            bar.dynamic_ncols = lambda _: (columns, None)
            bar.start_t -= seconds
            for each in rows:
                progress.row(each)
            bar.n = done
            return str(bar)

    return show


SIX = [row(START, START, 4.424, 4.424), row(MOVED, START, 1.8321, 1.9)]
RUNS = {
    "six": ("mada", SIX),
    "six and lr": ("mada", [row(START | LR, START | LR, val=4.4), row(MOVED | {"lr": 2.4e-3}, MOVED | LR)]),
    "lr": ("automuon", [row(START | LR, LR, val=4.4), row(MOVED | {"lr": 2.4e-3}, LR)]),
    "none": ("adamw", [{"train_loss": 1.8, "val_loss": 1.9}]),
    "no row": ("adamw", []),
    "large losses": ("mada", [row(START, START, 10.912, 10.91)]),
    "larger losses": ("mada", [row(START, START, 123456.7, 123456.7)]),
    "not finite": ("mada", [row(dict.fromkeys(START, math.nan), START, math.nan, math.inf)]),
    "a long name": ("mada_published_with_a_very_long_name_of_its_own_that_fills_a_line_of_80_columns_alone", SIX),
    "a set per tensor": (
        "mada",
        [
            row({f"transformer.h.{i}.attn.weight": q for i in range(40)}, START)
            | {"hypergradients": {f"transformer.h.{i}.attn.weight": START for i in range(40)}}
            for q in (START, MOVED)
        ],
    ),
}
STATES = {"start": (500, 0, 0.0), "early": (500, 3, 1.0), "middle": (500, 240, 15.4), "end": (500, 500, 31.0)}
STATES |= {"large": (600_000, 412_345, 5e5), "slow": (600_000, 1, 1e4), "large end": (600_000, 600_000, 9e5)}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("state", STATES)
def test_every_state_fits_80_columns(line, run, state):
    (name, rows), (steps, done, seconds) = RUNS[run], STATES[state]
    text = line(name, steps, done, seconds, rows)
    assert len(text) <= 80
    for word, key in (("loss", "train_loss"), ("val", "val_loss")):
        assert (f" {word} " in text) == any(key in each for each in rows)
    assert f"{done / steps:.0%}" in text.replace(" ", "")


@pytest.mark.parametrize("state", STATES)
def test_six_learned_coefficients_fit_beside_the_losses(line, state):
    steps, done, seconds = STATES[state]
    text = line("mada", steps, done, seconds, SIX)
    assert "loss 1.83 val 1.90 beta1 .91 beta2 .95 beta3 .12 rho .61 c .99 gamma .98" in text


def test_what_is_not_learned_is_not_shown(line):
    assert "lr 2.4e-3" in line("automuon", rows=RUNS["lr"][1])
    assert not re.search("beta|rho|gamma| c ", line("automuon", rows=RUNS["lr"][1]))
    text = line("mada", rows=[row(START, ["rho"]), row(MOVED, ["rho"])])
    assert text.endswith("loss 1.832 rho .612")


def test_those_that_moved_most_are_shown_where_not_all_fit(line):
    still = {"omega": 0.5, "mu": 0.95}
    text = line("mada", rows=[row(still | START, still | START, val=4.4), row(still | MOVED, still | START)])
    assert "omega" not in text
    assert "mu" not in text
    assert all(name in text for name in START)
    lr = line("mada", rows=RUNS["six and lr"][1])
    assert "lr 2.4e-3" in lr
    assert "beta3 .12" in lr
    assert "beta2" not in lr  # it moved by a thousandth, the least of all


def test_there_is_a_bar_and_a_name_where_there_is_room(line):
    text = line("adamw", 500, 240, 15.0, RUNS["none"][1])
    assert text.startswith("adamw:  48%|")
    assert "| 240/500 [00:15<00:16] loss 1.800 val 1.900" in text
    assert len(text) == 80


def test_numbers_are_longer_in_a_wider_terminal(line):
    text = line("mada", 500, 240, 15.0, SIX, columns=120)
    assert "loss 1.832 val 1.900 beta1 .912 beta2 .951 beta3 .123 rho .612 c .985 gamma .978" in text


def test_the_last_validation_loss_stays(line):
    text = line("adamw", rows=[{"train_loss": 4.0, "val_loss": 4.2}, {"train_loss": 3.0}])
    assert "loss 3.000 val 4.200" in text


def test_a_terminal_of_80_columns_gets_lines_of_80_columns(monkeypatch):
    """What a terminal receives: no line that is longer, and no cursor that goes up."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(FittedBar, "_instances", weakref.WeakSet())  # bars that other tests have left
        with ProgressBar(600_000, "mada_published") as progress:
            for done, each in ((1, SIX[0]), (400_000, SIX[1]), (600_000, SIX[1])):
                progress.row(each)
                progress.step(done)
                progress.bar.refresh()
        received = os.read(master, 100_000).decode()
    os.close(master)
    lines = [text.rstrip() for text in re.split("[\r\n]+", received)]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in received
    assert any("gamma .98" in text for text in lines)


def test_a_bar_that_is_not_shown_prints_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressBar(10, "mada", shown=False) as progress:
        progress.row(SIX[0])
        progress.step(3)
        assert len(str(progress.bar)) <= 80
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("name", ["a", "learning_rate=0.003,beta1=0.95,beta2=0.999,optimizer=mada_published,seed=12"])
def test_the_bar_of_a_sweep_fits_and_keeps_the_steps(name, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    with SweepBar("sweep") as bar:
        assert len(str(bar.bar)) <= 80
        bar.standing(12, 3, 480)
        bar.begins(name, TrainConfig(max_iters=600_000))
        bar.step(412_345)
        text = str(bar.bar)
    assert len(text) <= 80
    assert text.endswith(" 412345/600000, 3 failed")
    assert f" {name[:8]}"[:4] in text


def test_a_fitted_bar_is_a_bar_of_tqdm():
    file = io.StringIO()
    with FittedBar(range(3), file=file, desc="x") as bar:
        assert isinstance(bar, tqdm)
        assert list(bar) == [0, 1, 2]
    assert "3/3" in file.getvalue()


def test_short_numbers():
    assert [short(0.912, width) for width in (3, 4, 5)] == [".91", ".912", ".9120"]
    assert [short(x, 4) for x in (0.0, 1.0, 0.99961, -0.25, 10.84, 99.97, 1234567.0)] == [
        ".000", "1.00", "1.00", "-.25", "10.8", "100", "1e6",
    ]  # fmt: skip
    assert [short(x, 3) for x in (math.nan, math.inf)] == ["nan", "inf"]


def test_durations_have_two_digits():
    assert [duration(x) for x in (0.2, 59, 99.4, 100, 5900, 6000, 3.5e5, 4e5)] == [
        "0s", "59s", "99s", "2m", "98m", "2h", "97h", "5d",
    ]  # fmt: skip
