"""Two processes that are stopped, or killed, and go on: a part of the drill (tests/reliability/drill.py).

Catches: state that only one of the processes has and no checkpoint holds, a resumed run that is another run, a process
that outlives the one it trains with.
"""

import random
from dataclasses import replace

import pytest

from tests.reliability import kills, resumes


@pytest.mark.parametrize(
    ("parallel", "dtype", "passes", "points"),
    [
        ("ddp", "float32", 4, ("after a skipped step",)),
        ("fsdp", "bfloat16", 2, ("before hyper_start",)),
    ],
)
def test_a_part_of_the_matrix(tmp_path, data_dir, parallel, dtype, passes, points):
    config = replace(resumes.CONFIG, data_dir=str(data_dir), parallel=parallel)
    tally = resumes.matrix(tmp_path, config, (dtype,), (passes,), points=points, size=2, after=8)
    assert tally.failures == []
    assert tally.cases == 1


def test_kills_at_random_moments(tmp_path, data_dir):
    config = replace(kills.GROUP, data_dir=str(data_dir), max_iters=40)
    tally = kills.at_random(tmp_path / "kills", config, 3, random.Random(1), size=2)
    assert tally.failures == []
    assert tally.figures["kills"] == "3"
