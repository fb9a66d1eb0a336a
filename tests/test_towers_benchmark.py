"""The benchmark of towers, on three steps instead of two hundred: it runs, and its table and figures can be redrawn.

Catches: a benchmark that has drifted from the library, a value that goes to another storey than the figure says.
"""

import math

import pytest

from benchmarks import towers, towers_figure
from mada_optim import SGD


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(towers, "STEPS", 3)


@pytest.mark.parametrize("family", towers.FAMILIES)
def test_every_family_trains(family):
    result = towers.run((family, "lr", 2, 1e-3, 0))
    assert result == towers.run((family, "lr", 2, 1e-3, 0))
    assert 1.0 < result.training < 3.0
    assert 1.0 < result.validation < 3.0


def test_what_is_written_is_read_and_drawn_again(tmp_path, monkeypatch):
    jobs = [job for job in towers.jobs() if job[4] < 2 and job[3] in (0.1, 1.0)]
    results = [towers.Result(*job, training=0.25 * job[2] + 0.5 * job[4], validation=math.inf) for job in jobs]
    towers.write(results, tmp_path / "towers.csv")
    again = towers.read(tmp_path / "towers.csv")
    assert again == results
    lines = list(towers.tables(again))
    assert sum(line.startswith("| Adam on Adam") for line in lines) == 10
    monkeypatch.setattr(towers_figure, "FILES", {"all": "one"})  # of three that are drawn alike
    towers_figure.draw(again, tmp_path)
    assert "<svg" in (tmp_path / "one.svg").read_text()
    assert (tmp_path / "one.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("varied", "expected"), [("lr", [7.0, 1.0, 1.0]), ("top", [0.1, 1.0, 7.0]), ("all", [0.1, 7.0, 7.0])]
)
def test_what_is_varied_goes_where_the_figure_says(monkeypatch, varied, expected):
    seen = []
    family = towers.Family("", 1.0, 0.1, lambda model, lrs: seen.append(lrs))
    monkeypatch.setitem(towers.FAMILIES, "sgd", family)
    towers.run(("sgd", varied, 2, 7.0, 0))
    assert seen == [expected]


def test_a_tower_has_its_learning_rates_from_below():
    params = towers.network().parameters()
    opt = towers.tower((SGD, SGD, SGD), params, [0.1, 0.2, 0.3])
    found = []
    while opt is not None:
        found.append((opt.param_groups[0]["lr"], opt.learned))
        opt = next(iter(opt.hyper_optimizers), None)
    assert found == [(0.1, ("lr",)), (0.2, ("lr",)), (0.3, ())]


def test_the_split_has_no_image_twice():
    (x, _), (z, _) = towers.digits()
    assert (len(x), len(z)) == (1347, 450)
    assert len({tuple(row) for row in [*x.tolist(), *z.tolist()]}) == 1797


def test_labels_that_meet_are_moved_apart_below_the_top():
    assert towers_figure.apart([0.0, 0.0, 0.0], 1.0, 10.0) == [0.0, 1.0, 2.0]
    assert towers_figure.apart([0.0, 9.0, 9.0], 1.0, 10.0) == [0.0, 8.5, 9.5]
