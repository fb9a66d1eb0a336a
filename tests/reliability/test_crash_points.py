"""A part of the drill: disks that fail, and processes that die, at every change of the disk, or at some.

Catches: a file that appears before it is whole, a flush that is missing, a removal that is seen half done, a failed
save that takes the run or an older checkpoint with it, a resume that repeats or misses a row.
"""

import random
from dataclasses import replace

from tests.reliability import crash_points, kills


def test_every_change_of_a_save(tmp_path):
    tally = crash_points.of_a_save(tmp_path)
    assert tally.failures == []
    assert tally.cases >= 100


def test_some_changes_of_a_run(tmp_path, data_dir):
    config = replace(crash_points.SHORT, data_dir=str(data_dir))
    tally = crash_points.of_a_run(tmp_path / "run", config, modes=("KILL", "POWER", "FULL"), every=29)
    assert tally.failures == []
    assert tally.cases == 12


def test_some_changes_of_a_resume(tmp_path, data_dir):
    config = replace(crash_points.SHORT, data_dir=str(data_dir), background_save=True)
    tally = crash_points.of_a_resume(tmp_path / "resume", config, modes=("KILL", "EIO"), every=13)
    assert tally.failures == []
    assert tally.cases == 8


def test_some_changes_of_a_preparation(tmp_path):
    tally = crash_points.of_data(tmp_path / "data", modes=("KILL", "ENOSPC"), every=5)
    assert tally.failures == []
    assert tally.cases >= 6


def test_kills_at_random_moments(tmp_path, data_dir):
    config = replace(kills.CONFIG, data_dir=str(data_dir))
    tally = kills.at_random(tmp_path / "kills", config, 5, random.Random(0))
    assert tally.failures == []
    assert int(tally.figures["kills"]) == 5
