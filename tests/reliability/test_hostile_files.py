"""A part of the drill: rot, malicious files, and mistakes of every kind in configurations and data.

Catches: a flipped bit that is loaded, a file that runs code, an error that shows as a traceback, a reader that never
ends.
"""

import random
from dataclasses import replace

import pytest

from mada_lab import cli
from mada_lab.checkpoints.folder import path_of
from mada_lab.training.trainer import train
from tests.app.conftest import Silent
from tests.reliability import fuzz, rot, siege
from tests.reliability.attacks import ATTACKS


@pytest.fixture
def saved(tiny, corpus, tmp_path):
    train(replace(tiny, max_iters=6), corpus, Silent())
    return path_of(tmp_path / "run", 6)


def test_flipped_bits(saved):
    assert rot.flips(saved, 100, random.Random(0)).failures == []
    assert rot.flips_of_the_manifest(saved).failures == []
    assert rot.truncations(saved, 42, random.Random(0)).failures == []


def test_a_good_checkpoint_would_not_be_refused(saved):
    """What the tests above and below rest on."""
    assert rot.not_refused(saved, saved) == "loaded"


def test_every_sixth_attack(tmp_path, data_dir):
    names = tuple(ATTACKS)[::6]
    tally = siege.of_checkpoints(tmp_path / "siege", replace(siege.CONFIG, data_dir=str(data_dir)), names)
    assert tally.failures == []
    assert tally.cases == len(names)


def test_configurations(tmp_path):
    assert fuzz.configurations(tmp_path / "configurations", 150, random.Random(0)).failures == []


def test_no_message_moves_the_cursor(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "\x1b[31mred\nerror: \u202e"])
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        cli.main(["train", "\x1b[31m", "--debug "])
    assert "\x1b" not in capsys.readouterr().err


def test_data_files(tmp_path):
    tally = fuzz.data_files(tmp_path, 150, random.Random(0))
    assert tally.failures == []
    assert 0 < int(tally.figures["opened"]) < 75
