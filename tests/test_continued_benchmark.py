"""The benchmark of trained weights, on a few steps instead of hundreds: it runs, repeats, and compares like with like.

Catches: a benchmark that has drifted from the library; runs of a seed with other batches; a kind that isn't what it is
called.
"""

from dataclasses import replace

import pytest

from benchmarks import continued
from mada_lab.tasks.open_data import open_data


@pytest.fixture
def config(tmp_path):
    short = {"max_iters": 3, "warmup_iters": 1, "data_dir": str(tmp_path)}
    return replace(continued.TRAINED["digits"], **short)


def test_it_measures_all_kinds_from_the_same_weights(config):
    losses = continued.measure(config, [1, 2], 2)
    assert set(losses) == {(kind, rate) for kind in continued.KINDS for rate in continued.RATES}
    for rate in continued.RATES:  # nothing is learned in the first steps
        assert losses["left", rate] == losses["learned", rate] == losses["no ceiling", rate]
        assert losses["left", rate][0] != losses["left", rate][1]
    assert losses["left", 1e-5] != losses["left", 1e-3]


def test_what_is_learned_moves_and_what_is_left_stays(config):
    data = open_data(config)
    weights = continued.trained(config, data)
    losses = [continued.continued(config, data, weights, 1e-3, 30, x) for x in continued.KINDS.values()]
    assert losses[0] != losses[1]


def test_the_table_is_over_the_best_that_is_left_alone():
    losses = {("left", 1e-5): [0.5, 0.7], ("left", 1e-3): [0.4, 0.4], ("learned", 1e-5): [0.3, 0.5]}
    lines = continued.table(losses).splitlines()
    assert lines[1].split() == ["left", "1e-05", "0.5000", "0.7000", "0.6000", "1.5000"]
    assert lines[3].split()[-2:] == ["0.4000", "1.0000"]
