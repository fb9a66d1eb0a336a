"""Figures hold the records' numbers, in ranges that neither hide nor inflate what they show."""

from xml.etree import ElementTree

import numpy as np
import pytest

from mada_lab.plots import coefficients as drawn
from mada_lab.plots import style
from mada_lab.plots.curves import coefficient_range, loss_range, round_up, smooth, symmetric_range, thin
from mada_lab.plots.losses import training_loss, validation_loss
from mada_lab.plots.save import svg
from mada_lab.records.run_record import RunRecord, read_run
from tests.app.synthetic_runs import make_run


def coefficient_panels(runs):
    return style.separate(drawn.coefficients(runs), style.SMALL)


def hypergradient_panels(runs):
    return style.separate(drawn.hypergradients(runs), style.SMALL)


def test_figures_draw_the_numbers_of_the_record(tmp_path):
    run = read_run(make_run(tmp_path / "mada"))
    raw = training_loss([run]).axes[0].lines[0]
    assert (list(raw.get_xdata()), list(raw.get_ydata())) == run.series("train_loss")
    evaluated = validation_loss([run]).axes[0].lines[0]
    assert (list(evaluated.get_xdata()), list(evaluated.get_ydata())) == run.series("val_loss")
    value = coefficient_panels([run])["rho"].axes[0].lines[0]
    assert (list(value.get_xdata()), list(value.get_ydata())) == run.coefficient("rho")
    raw = hypergradient_panels([run])["rho"].axes[0].lines[1]
    assert (list(raw.get_xdata()), list(raw.get_ydata())) == run.hypergradient("rho")


def test_both_loss_figures_have_one_vertical_range(tmp_path):
    runs = [read_run(make_run(tmp_path / name, gain=gain)) for name, gain in (("a", 0.0), ("b", 1.0))]
    assert training_loss(runs).axes[0].get_ylim() == validation_loss(runs).axes[0].get_ylim()


def test_a_dollar_in_a_name_is_drawn_as_a_dollar(tmp_path):
    run = read_run(make_run(tmp_path / "a$\\frac{1}{2}$b"))
    picture = svg(training_loss([run]), run.name)
    texts = [element.text for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert "a$\\frac{1}{2}$b" in texts


def test_panels_name_their_coefficient_and_the_height_they_show(tmp_path):
    runs = [read_run(make_run(tmp_path / "mada")), read_run(make_run(tmp_path / "adamw", learned=False))]
    panels = coefficient_panels(runs)
    assert list(panels) == ["beta1", "beta2", "beta3", "rho", "c", "gamma"]
    for name, panel in panels.items():
        axes = panel.axes[0]
        bottom, top = axes.get_ylim()
        assert axes.get_title("left") == name
        assert axes.get_title("right") == f"full height {top - bottom:.3g}"
    assert list(hypergradient_panels(runs))[:2] == ["beta1", "beta2"]
    assert len(style.together(drawn.coefficients(runs), style.SMALL, {}).axes) == 6


def test_what_is_neither_learned_nor_moves_has_no_panel(tmp_path):
    record = RunRecord.create(tmp_path / "lr", {})
    for step, lr in enumerate((1e-3, 2e-3)):
        coefficients = {"beta1": 0.9, "gamma": 1.0, "lr": lr}
        record.log({"step": step, "coefficients": coefficients, "hypergradients": {"beta1": 0.0, "gamma": 0.1 * step}})
    runs = [read_run(tmp_path / "lr")]
    assert list(coefficient_panels(runs)) == ["gamma", "lr"]
    assert list(hypergradient_panels(runs)) == ["gamma"]
    assert len(style.together(drawn.coefficients(runs), style.SMALL, {}).axes) == 2


def test_a_panel_shows_the_runs_that_learn_its_coefficient(tmp_path):
    for name, learned in (("all", ["beta1", "rho"]), ("one", ["rho"])):
        record = RunRecord.create(tmp_path / name, {"method": {"description": "X", "learned": learned, "lr": [0.1]}})
        for step in range(3):
            coefficients = {"beta1": 0.9 - 0.1 * step, "rho": 1 - 0.1 * step}
            record.log({"step": step, "coefficients": coefficients, "hypergradients": dict.fromkeys(learned, 0.1)})
    runs = [read_run(tmp_path / name) for name in ("all", "one")]
    panels, slopes = coefficient_panels(runs), hypergradient_panels(runs)
    lines = {name: panel.axes[0].lines for name, panel in panels.items()}
    assert [line.get_color() for line in lines["beta1"][:2]] == [style.color(0)] * 2
    assert (len(lines["beta1"]), len(lines["rho"])) == (3, 2 * 3)  # each with its start and a ring
    assert [len(slopes[name].axes[0].lines) for name in ("beta1", "rho")] == [1 + 2, 1 + 2 * 2]


def test_the_initial_value_is_marked_even_when_the_first_row_is_later(tmp_path):
    record = RunRecord.create(tmp_path / "late", {})
    for step, beta1 in ((50, 0.95), (60, 0.94)):
        record.log({"step": step, "coefficients": {"beta1": beta1}})
    record.finish({"initial_coefficients": {"beta1": 0.9}})
    axes = coefficient_panels([read_run(tmp_path / "late")])["beta1"].axes[0]
    ring = axes.lines[-1]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([0], [0.9])
    assert axes.get_ylim()[0] < 0.9 < 0.95 < axes.get_ylim()[1]


@pytest.mark.parametrize(
    ("low", "high", "span"),
    [(0.9, 0.9, 0.01), (0.9, 0.9001, 0.01), (0.9, 0.93, 0.05), (0.0, 0.4, 0.5), (0.0, 1.0, 1.08), (-3.0, 4.0, 10.0)],
)
def test_a_coefficients_range_is_round_and_holds_all_of_it(low, high, span):
    bottom, top = coefficient_range(low, high)
    assert top - bottom == pytest.approx(span)
    assert bottom < low <= high < top


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_coefficient_on_its_bound_is_inside_the_panel_and_little_is_shown_beyond(value):
    bottom, top = coefficient_range(value, value)
    assert bottom < value < top
    assert (bottom, top) == pytest.approx((-0.0004, 0.0096) if value == 0 else (0.9904, 1.0004))


def test_numbers_round_up_to_one_two_or_five():
    assert [round_up(x) for x in (0.011, 0.02, 0.3, 5.0, 5.1, 1e-7)] == pytest.approx([0.02, 0.02, 0.5, 5, 10, 1e-7])


def test_smoothing_keeps_a_line_keeps_gaps_and_averages_noise():
    line = np.arange(200.0)
    assert smooth(line)[:195] == pytest.approx(line[:195])
    gap = line.copy()
    gap[100] = np.nan
    assert np.flatnonzero(np.isnan(smooth(gap))).tolist() == [100]
    assert np.abs(smooth(np.resize([1.0, -1.0], 200))[5:]).max() <= 0.2
    assert smooth([]).tolist() == []
    assert smooth([4.0]).tolist() == [4.0]


def test_thinning_keeps_spikes_and_both_ends_in_order():
    values = np.zeros(50_000)
    values[[777, 40_001]] = 9.0, -9.0
    values[10_000:10_100] = np.nan
    x, y = thin(range(50_000), values)
    assert len(x) <= 2000
    assert {777.0, 40_001.0} <= set(x)
    assert (np.diff(x) > 0).all()
    assert np.isnan(y).any()
    assert thin([1, 2], [3.0, 4.0])[0].tolist() == [1, 2]


def test_loss_ranges_show_the_end_not_the_start_and_survive_divergence():
    steps = list(range(101))
    falling = 2 + 9 * np.exp(-np.arange(101) / 5)
    bottom, top = loss_range([(steps, falling)])
    assert bottom < 2
    assert 3 < top < 5
    assert loss_range([(steps, falling), (steps, np.where(np.arange(101) < 50, 3.0, 1e6))])[1] < 13
    assert loss_range([([], np.array([])), ([3], np.array([np.nan]))]) == (0.0, 1.0)
    assert loss_range([([0], np.array([0.0]))]) == (-0.05, 0.05)
    short = [([0, 50], np.array([4.5, 3.2])), ([0, 50], np.array([4.6, 3.1]))]  # all of their lines, not the last point
    bottom, top = loss_range(short)
    assert bottom < 3.1 < 4.6 < top


def test_hypergradient_ranges_hold_99_percent_and_none_is_fine():
    assert symmetric_range(np.array([])) == (-1.0, 1.0)
    assert symmetric_range(np.zeros(5)) == (-1.0, 1.0)
    assert symmetric_range(np.append(np.full(999, 0.003), 50.0)) == pytest.approx((-0.005, 0.005))
