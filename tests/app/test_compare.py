"""Comparisons, grids and their figures: numbers of the records, paired by seed, failures shown as such.

Catches: losses paired with another seed's, a failed run counted as a good one or lost, coefficients that aren't the
source's or don't stay, a contour that fills in what nobody computed, a baseline that isn't the first.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from mada_lab.cli import compare as command
from mada_lab.errors import ConfigError
from mada_lab.experiments import grid
from mada_lab.experiments.comparison import compare
from mada_lab.experiments.comparison.page import page
from mada_lab.experiments.seeds import run_name
from mada_lab.experiments.sweeps.complete import complete
from mada_lab.plots.contours import Surface, contours, levels_of
from mada_lab.plots.save import save
from mada_lab.plots.seeds import bands, bars
from mada_lab.records.run_record import RunRecord, read_run
from mada_lab.training import coefficients_from
from tests.app.commands import mada_lab
from tests.app.conftest import Silent, fitted
from tests.app.test_cli import QUICK


def record(folder, loss, steps=(0, 10), **config):
    """The record of a run that ended with `loss`; None leaves the summary out."""
    rows = RunRecord.create(folder, {"config": config, "optimizer": config["optimizer"]})
    for step in steps:
        rows.log({"step": step, "train_loss": 1.0, "val_loss": 4.0 - step / 10, "seconds": 0.1})
    if loss is not None:
        rows.finish({"steps": 10, "seconds": 0.1, "final_val_loss": loss, "final_train_loss": loss - 1})


def test_differences_are_paired_by_seed_and_failures_counted(tmp_path):
    losses = {"adamw": (3.0, 2.0, 4.0), "mada": (2.5, 1.75, None), "lion": (math.nan, 5.0, 5.0)}
    for case, values in losses.items():
        for seed, loss in enumerate(values):
            record(tmp_path / run_name(case, seed), loss, optimizer=case, seed=seed)
    groups = compare.read_groups(tmp_path, list(losses), range(3))
    adamw, mada, lion = compare.table(groups).rows
    assert adamw[1:4] == ["3.0000 ± 1.0000", "", ""]
    assert mada[1:4] == ["2.1250 ± 0.5303", "-0.3750 ± 0.1768", "2 of 2"]
    assert mada[7] == "1 of 3"
    assert lion[2:4] == ["+2.0000 ± 1.4142", "0 of 2"]
    content = page(groups).html()
    assert "-0.3750 ± 0.1768" in content
    assert content.count('role="img"') == 3


def test_final_state_fixed(tiny, corpus, tmp_path):
    """A run from another's coefficients has those, learns none of them, and is itself again after a stop."""
    learned = complete(tiny, corpus, Silent())
    config = fitted(tiny, out_dir=str(tmp_path / "fixed"), coefficients_from=tiny.out_dir)
    with pytest.raises(ConfigError, match=r"expected beta1=0\.\d+ of that run, got beta1=0.5 beside it"):
        coefficients_from.resolve(replace(config, beta1=0.5))
    fixed = complete(config, corpus, Silent())
    assert fixed.initial_coefficients() == learned.final_coefficients() != learned.initial_coefficients()
    assert fixed.final_coefficients() == learned.final_coefficients()
    assert complete(config, corpus, Silent()) == fixed
    assert coefficients_from.resolve(replace(config, learn="beta1")).learn == "beta1"


@pytest.mark.parametrize(
    ("loss", "optimizer", "message"), [(None, "mada", "one without a summary"), (1.0, "adamw", "got none")]
)
def test_a_source_without_coefficients_is_refused(tiny, tmp_path, loss, optimizer, message):
    record(tmp_path / "source", loss, optimizer=optimizer)
    with pytest.raises(ConfigError, match=message):
        coefficients_from.resolve(replace(tiny, coefficients_from=str(tmp_path / "source")))


def test_cases_of_a_command_line():
    words = [
        "--optimizers",
        "adamw,sgd:learning_rate=0.1:momentum=0.9,mada,mada_fs",
        "--seeds=3,4",
        "--max_iters=200",
    ]
    given, cases, base = command.read(words)
    first, second = compare.plans(base, cases, given.seeds)
    assert [name for name, _ in first.points] == [
        f"{case}_seed={seed}" for case in ("adamw", "sgd", "mada") for seed in (3, 4)
    ]
    assert first.points[2][1] == {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "seed": 3}
    source = {"optimizer": "mada", "coefficients_from": "@mada_seed=4", "seed": 4}
    assert second.points[1] == ("mada_fs_seed=4", source)
    assert (first.base.max_iters, second.size) == (200, 2)
    with pytest.raises(ConfigError, match="expected one of adamw after @, got @mada"):
        compare.plans(base, {"adamw": {}, "mada_fs": {}}, [1])


def test_compare_from_the_command_line(tmp_path):
    """All of it, twice: the second time nothing is trained."""
    words = ["compare", *QUICK, "--optimizers=adamw,mada,mada_fs", "--seeds=1,2", "--out=out"]
    run = mada_lab(*words, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "| mada_fs |" in run.stdout
    fixed, source = (read_run(tmp_path / "out" / "runs" / f"{name}_seed=2") for name in ("mada_fs", "mada"))
    assert fixed.final_coefficients() == source.final_coefficients()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    assert mada_lab(*words, cwd=tmp_path).stdout == run.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")} == before


def surface(name="mada", losses=None, seeds=2):
    beta1, beta2 = np.array([0.1, 0.5, 0.9]), np.array([0.6, 0.9])
    losses = np.arange(6.0).reshape(3, 2, 1) + np.zeros(seeds) if losses is None else losses
    return Surface(name, beta1, beta2, losses, losses + 1, np.ones(losses.shape, bool))


def test_a_grid_is_read_back_in_its_places(tmp_path):
    for i, beta1 in enumerate((0.9, 0.1)):
        for j, beta2 in enumerate((0.95, 0.6)):
            for seed in (1, 2):
                for optimizer, gain in (("mada", 0.5), ("adamw", 0.0)):
                    loss = 10 * i + j - (gain if i else -gain)
                    name = tmp_path / "runs" / f"{optimizer}{i}{j}{seed}"
                    record(name, loss + seed, optimizer=optimizer, beta1=beta1, beta2=beta2, seed=seed)
    record(tmp_path / "runs" / "failed", None, optimizer="mada", beta1=0.1, beta2=0.6, seed=3)
    adamw, mada = grid.read_surfaces(tmp_path)
    assert (adamw.name, list(adamw.beta1), list(adamw.beta2)) == ("adamw", [0.1, 0.9], [0.6, 0.95])
    assert adamw.validation[0, 1].tolist() == [11.0, 12.0]
    assert np.isnan(mada.mean("validation")).tolist() == [[True, False], [False, False]]
    text = grid.table([adamw, mada]).markdown()
    best, worst = "2.0000 (0.9, 0.95)", "11.0000 (0.1, 0.95)"
    assert f"| validation | mada | {best} | 3.0000 | {worst} | 0.7071 | 1 of 9 | 1 of 3 |" in text


def test_a_sweep_over_other_keys_is_called_so(tmp_path):
    for seed in (1, 2):
        record(tmp_path / "runs" / str(seed), 1.0, optimizer="mada", beta1=None, beta2=None, seed=seed)
    with pytest.raises(ConfigError, match="expected a sweep over beta1 and beta2, got one over seed; pass"):
        grid.read_surfaces(tmp_path)
    for rate in (1, 2):
        where = {"optimizer": "mada", "beta1": 0.5, "beta2": 0.9, "learning_rate": rate}
        record(tmp_path / "rates" / "runs" / str(rate), 1.0, **where)
    with pytest.raises(ConfigError, match="alone beside them, got one over learning_rate; pass"):
        grid.read_surfaces(tmp_path / "rates")


def test_published_tables_are_read_by_their_columns(tmp_path):
    head = "initial_beta1,initial_beta2,initial_rho,train_loss,val_loss\n"
    (tmp_path / "shakespeare_grid_mada.csv").write_text(head + "0.1,0.6,1,1.0,1.5\n0.9,0.6,1,,2.5\n")
    [mada] = grid.read_surfaces(tmp_path)
    assert mada.validation.ravel().tolist() == [1.5, 2.5]
    assert np.isnan(mada.training.ravel()).tolist() == [False, True]
    (tmp_path / "shakespeare_grid_mada.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"expected .*columns initial_beta1, initial_beta2, train_loss, val_loss"):
        grid.read_surfaces(tmp_path)


def test_contours_mark_what_failed_and_don_t_fill_it_in(tmp_path):
    losses = np.arange(6.0).reshape(3, 2, 1)
    whole = contours([surface(losses=losses)]).axes[0]
    losses = losses.copy()
    losses[0, 1] = np.nan
    broken = contours([surface(losses=losses)]).axes[0]
    crosses = [line.get_xydata().tolist() for line in broken.lines if line.get_marker() == "x"]
    assert crosses == [[[0.1, 0.9]]]
    mesh = broken.collections[0].get_array()
    assert np.ma.getmaskarray(mesh).sum() == 1
    star = [line.get_xydata().tolist() for line in whole.lines if line.get_marker() == "*"]
    assert star == [[[0.1, 0.6]]]
    save(contours([surface(), surface("adamw")]), tmp_path / "figure.svg")
    assert levels_of([np.array([[1.0, 1.1], [1.2, 1.1], [1.15, 400.0]])])[-1] < 3


def test_ranges_hold_whole_bars_and_whiskers_but_of_outliers():
    """Two seeds have a standard deviation beyond their range."""
    losses = {"a": [1.0, 1.1], "b": [1.3, 1.5], "c": [1.2, 1.3]}
    left, right = bars(losses, {"a": [0.0, 0.0], "b": [0.3, 0.4], "c": [0.2, 0.2]}, "x").axes
    for axes in (left, right):
        low, high = axes.get_xlim()
        ends = np.concatenate(
            [line.get_xdata() for line in axes.lines] + [x for c in axes.collections for x in c.get_segments()[0].T[:1]]
        )
        assert low < ends.min() <= ends.max() < high
    far = {**losses, "d": [1.0, 900.0]}
    outlier = bars(far, {name: [0.0, 0.0] for name in far}, "x").axes[0]
    assert outlier.get_xlim()[1] < 10


def test_marks_and_tick_labels_at_the_corners_of_a_grid_stay_in_their_panel():
    axes = contours([surface()]).axes[0]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < 0.1 - 0.03 < 0.9 + 0.03 < right
    assert bottom < 0.6 - 0.01 < 0.9 + 0.01 < top


def test_bars_start_at_zero_and_bands_span_the_seeds():
    figure = bars({"a": [1.0, 2.0], "b": [1.5, math.nan]}, {"a": [0.0, 0.0], "b": [0.5, math.nan]}, "x")
    [bar] = figure.axes[1].patches
    assert (bar.get_x(), bar.get_width()) == (0.0, 0.5)
    axes = bands({"a": ([0, 1], np.array([[3.0, 1.0], [5.0, math.nan]]))}, "x").axes[0]
    assert axes.lines[0].get_ydata().tolist() == [4.0, 1.0]
    assert axes.get_ylim()[1] > 5
    assert {tuple(point) for point in axes.collections[0].get_paths()[0].vertices.tolist()} >= {(0, 3), (0, 5), (1, 1)}
