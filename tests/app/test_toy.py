"""The online problems. The fast path on floats must do what the optimizers do, and the game must keep its rules.

Catches: a rule, derivative or hyper-step that differs from the library's in any operation; an optimizer that is cut off
from the number it moves when that is projected; a regret counted after the move or against the wrong play.
"""

import time
from itertools import pairwise

import pytest
import torch

from mada_lab.errors import ConfigError
from mada_lab.experiments.toy.game import METHODS, PROBLEMS, SCHEDULES, Game, play, record, recorded
from mada_lab.experiments.toy.page import figures
from mada_lab.experiments.toy.scalar_optimizer import ScalarOptimizer
from mada_lab.optimizers.controls import Negated
from mada_lab.records.run_record import read_run
from mada_optim import MADA, HyperSGD, HyperTorch
from mada_optim.beta_guard import Guard
from tests.app.commands import mada_lab


def by_the_optimizer(game):
    """The same game with the optimizer object: the average regret, the iterate and the coefficients after each play."""
    problem, schedule = PROBLEMS[game.problem], SCHEDULES[game.schedule]
    x, optimizer = game.optimizer()
    paid = 0.0
    for t in range(1, game.steps + 1):
        slope = 1010.0 if game.problem == "reddi" and t % 101 == 1 else problem.slope(t)
        paid += slope * x.item() - slope * -1.0
        x.grad = torch.full_like(x, slope)
        optimizer.param_groups[0]["lr"] = schedule(game.lr, t)
        optimizer.step()
        with torch.no_grad():
            x.clamp_(-1.0, 1.0)
        yield t, paid / t, x.item(), optimizer.coefficients()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("problem", "steps"), [("reddi", 600), ("c3", 300)])
def test_floats_do_what_the_optimizer_does(problem, steps, method):
    game = Game(problem=problem, method=method, steps=steps, points=2 * steps)
    points = {point.step: point for point in play(game)}
    assert len(points) > steps / 2
    for t, regret, x, coefficients in by_the_optimizer(game):
        if t in points:
            assert points[t].iterate == pytest.approx(x, abs=1e-11), t
            assert points[t].average_regret == pytest.approx(regret, rel=1e-11), t
            assert points[t].coefficients == pytest.approx(coefficients if points[t].coefficients else {}, abs=1e-11)
    moved = points[steps].coefficients
    assert not moved or abs(moved["rho"] - 1) > 0.01  # or nothing was compared


def test_what_theorem_1_says_of_adam_and_its_remedies_hold():
    """From 0 Adam is at +1, AMSGrad and AVGrad are at -1, and MADA has turned, within 20,000 plays."""
    ends = {
        name: list(play(Game(problem="c3", method=name, steps=20_000)))[-1]
        for name in "adam amsgrad avgrad mada_toy".split()
    }
    assert ends["adam"].iterate > 0.999
    assert max(ends[name].iterate for name in ("amsgrad", "avgrad", "mada_toy")) < -0.9
    assert ends["adam"].average_regret == pytest.approx(2 / 3, abs=0.01)  # 2 (3 - 1 - 1)/3 a play


@pytest.mark.parametrize("method", ["mada_toy", "mada"])
def test_a_million_steps_take_less_than_a_minute_of_one_core(method):
    began = time.process_time()
    list(play(Game(problem="reddi", method=method, steps=20_000)))
    assert (time.process_time() - began) * 1_000_000 / 20_000 < 60


def test_points_are_even_in_time_and_in_its_logarithm():
    points = recorded(1_000_000, 600)
    assert (points[0], points[-1]) == (1, 1_000_000)
    assert max(b - a for a, b in pairwise(points)) < 1_000_000 / 290
    assert sum(t < 1000 for t in points) > 100


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1},
        {"state_dtype": torch.float32},
        {"learn": ("rho", "lr")},
        {"learn": HyperTorch("rho")},
        {"learn": Negated("rho")},
    ],
    ids=("decay", "slots", "lr", "torch", "negated"),
)
def test_what_the_scalar_path_lacks_is_refused(options):
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="scalar optimizer: expected none of weight_decay"):
        ScalarOptimizer(MADA([x], **options), 0.0)


LEARNERS = [
    HyperSGD("all", lr=0.05, momentum={"rho": 0.9, "gamma": 0.5}, start=0, clip=0.3, rebound=2.0),
    HyperSGD(
        "rho", "beta3", lr={"rho": 0.2}, momentum=0.9, start=7, stop=60, bounds={"rho": (0.2, 0.9), "beta3": (0, 0.6)}
    ),
    [HyperSGD("rho", lr=0.3, start=3), HyperSGD("beta1", "c", momentum=0.8, clip=0.01, scope="tensor")],
]


OF_THE_OPTIMIZER = [{"maximize": True}, {"guard": Guard(), "eps": 0.1}]


@pytest.mark.parametrize(
    ("learn", "more"), [*((learn, {}) for learn in LEARNERS), *((LEARNERS[0], more) for more in OF_THE_OPTIMIZER)]
)
def test_every_option_of_the_learner_is_taken(learn, more):
    """Rates and momentum by coefficient, clipping, start and stop, bounds, several learners; and of the optimizer."""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    options = {"betas": (0.9, 0.99), "rho": 0.8, "c": 0.9, "gamma": 0.95, "learn": learn, **more}
    optimizer, twin = (MADA([p], lr=0.05, **options) for p in (x, x.clone().detach().requires_grad_()))
    player = ScalarOptimizer(twin, 0.0)
    for t in range(1, 101):
        slope = PROBLEMS["reddi"].slope(t) * (1 + 0.3 * (-1) ** t)
        x.grad = torch.full_like(x, slope)
        optimizer.step()
        player.step(slope, 0.05)
        assert player.x == pytest.approx(x.item(), abs=1e-11), t
        learned = {name: float(optimizer.param_groups[0][name]) for name in player.coefficients}
        assert player.coefficients == pytest.approx(learned, abs=1e-11), t
    assert learned["rho"] != 0.8


def test_wrong_names_are_refused():
    for wrong in ({"method": "adamm"}, {"problem": "c4"}, {"schedule": "cosine"}, {"steps": 0}):
        with pytest.raises(ConfigError, match=f"toy, {next(iter(wrong))}: expected"):
            Game(**{"problem": "c3", "method": "adam", **wrong})


def test_a_record_has_all_that_the_figure_shows(tmp_path):
    for name in ("adam", "mada"):
        record(Game(problem="reddi", method=name, steps=1000, points=50), tmp_path / name)
    runs = [read_run(tmp_path / name) for name in ("adam", "mada")]
    assert runs[1].coefficient("rho")[1][-1] == runs[1].final_coefficients()["rho"]
    lines = [axes.get_lines()[:2] for axes in figures(runs)["toy"].axes]
    last = [line.get_ydata()[-1] for line in (*lines[0], *lines[1], lines[2][1])]
    ends = [run.summary for run in runs]
    assert last[:4] == [end[key] for key in ("final_average_regret", "final_iterate") for end in ends]
    assert last[4] == ends[1]["final_coefficients"]["rho"]
    assert len(lines[2][0].get_xdata()) == 0  # Adam has none


def test_the_command(tmp_path):
    run = mada_lab("toy", "--problem=c3", "--methods=adam,mada", "--steps=1e3", "--out", "toy", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("adam ")
    assert {p.name for p in (tmp_path / "toy").iterdir()} == {"adam", "mada", "report.html", "toy.png", "toy.svg"}
    page = (tmp_path / "toy" / "report.html").read_text()
    assert "<h2>Regret</h2>" in page
    assert "<h2>Losses</h2>" not in page
    for _ in range(2):  # a new folder each time
        assert mada_lab("toy", "--problem=c3", "--methods=adam", "--steps=1e2", cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "out").glob("toy-*/adam"))) == 2
    again = mada_lab("toy", "--problem=c3", "--methods=adam", "--steps=1e3", "--out", "toy", cwd=tmp_path)
    assert again.returncode == 2
    assert "expected a folder without a run" in again.stderr
