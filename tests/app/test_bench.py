"""The bench: equal budgets, numbers out of hand-made records, and the quick form of all of it, twice.

Catches: a family with more trials than another, a space that no run accepts, a target that is read off at an evaluation
instead of between two, a diverged run that is left out of a mean or stops the bench, a broken run that passes for a
diverged one, ratios to another baseline, a finished run that is trained again.
"""

import json
import math
from dataclasses import replace

import pytest

from mada_lab import cli
from mada_lab.cli import bench as command
from mada_lab.config import parsing
from mada_lab.errors import ConfigError
from mada_lab.experiments.bench import figures, measure, sections
from mada_lab.experiments.bench.families import DEFAULTS, FAMILIES, Axis, suits
from mada_lab.experiments.bench.figures import figures as all_figures
from mada_lab.experiments.bench.measure import Cell, Table, crossing, geometric_mean, read_cells
from mada_lab.experiments.bench.sections import Scope
from mada_lab.experiments.bench.tasks import TASKS
from mada_lab.experiments.seeds import run_name
from mada_lab.experiments.sweeps.plan import Plan
from mada_lab.records.run_record import RunRecord

STEPS = [0, 50, 100]


def cell(name, *losses, start=3.0, middle=2.0):
    """A cell whose runs go from `start` by `middle` to their final losses."""
    there = [x for x in losses if math.isfinite(x)]
    return Cell(name, list(losses), [(STEPS, [start, middle, x]) for x in there], [0.01] * len(there))


def table(*cells, language=True):
    return Table("task", 100, {x.name: x for x in cells}, language=language)


def test_every_family_has_as_many_trials_as_any_other():
    task, scope = TASKS["gpt_pydoc"], Scope(trials=5)
    runs = sections.trials(scope, task)
    assert len(runs) == 5 * len(FAMILIES)
    counts = {family: sum(name.startswith(f"{family}.trial") for name in runs) for family in FAMILIES}
    assert set(counts.values()) == {5}
    assert {values["seed"] for values in runs.values()} == {0}
    assert not suits("muon", matrices=False)
    assert scope.tuned(TASKS["digits_logistic"]) == tuple(name for name in FAMILIES if name not in ("muon", "normuon"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_space_is_sane(name):
    """Trials are inside of it, all different, allowed, and the first of a longer tuning are those of a shorter."""
    family, base = FAMILIES[name], TASKS["gpt_pydoc"].config
    trials = family.trials(16)
    assert trials[:4] == family.trials(4)
    assert len({json.dumps(x) for x in trials}) == 16
    for values in trials:
        parsing.check(replace(base, **parsing.typed(values, "here")))
        for key, axis in family.space.items():
            assert axis.low * 0.999 <= values[key] <= axis.high * 1.001
    assert trials[0].items() >= family.usual.items()
    for key, axis in family.space.items():
        assert axis.low <= family.usual.get(key, axis.low) <= axis.high


def test_an_axis_is_even_in_its_logarithm():
    assert Axis(1e-4, 1e-2).at(0.5) == pytest.approx(1e-3)
    assert Axis(0.9, 0.999, "complement").at(0.5) == pytest.approx(0.99)


def test_every_section_can_be_planned():
    """On each task, with each family's last trial as the best; MADA's defaults touch nothing but the rate."""
    scope = Scope()
    for task in TASKS.values():
        best = dict.fromkeys(scope.tuned(task), 15)
        runs = sections.after_tuning(scope, task, best)
        Plan(task.config, runs).check()
        assert len({json.dumps(x, sort_keys=True) for x in runs.values()}) > 0.9 * len(runs)
        Plan(task.config, sections.followers((1,))).check()
    assert set(DEFAULTS["automuon_default"]) == {"optimizer"}
    assert runs["automuon.hyper=10_seed=2"]["hyper_lr_factor"] == 10.0
    assert [runs[f"automuon{x}_seed=1"]["learning_rate"] for x in (".lr=auto", "_from_lr.lr=0.01")] == ["auto", 0.01]
    assert {name.split(".")[0] for name in runs if ".betas=" in name} == {"adamw", "mada"}


def test_a_loss_is_reached_between_two_evaluations():
    curve = ([0, 100, 200], [4.0, 3.0, 2.0])
    assert crossing(curve, 2.5) == 150.0
    assert crossing(curve, 3.0) == 100.0
    assert crossing(curve, 5.0) == 0.0
    assert math.isinf(crossing(curve, 1.9))
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert math.isinf(geometric_mean([0.5, math.inf]))
    assert math.isnan(geometric_mean([]))


def test_the_mean_curve_counts_a_diverged_run_at_the_ceiling():
    t = table(cell("automuon_default", 1.0, math.nan), cell("adamw.best00", 1.5, 1.7))
    assert t.ceiling == 3.0
    assert t.values("automuon_default") == [1.0, 3.0]
    assert t.mean("automuon_default") == 2.0
    assert t.curve("automuon_default") == (STEPS, [3.0, 2.5, 2.0])
    assert t.bad("automuon_default") == 1
    assert figures.target(t) == pytest.approx(1.6)
    assert t.steps_to("adamw.best00", 1.8) == pytest.approx(0.75)


def test_figures_are_ratios_to_the_best_adamw():
    """A start that is computed has one run for all base rates."""
    scope = Scope(rates=(1e-3, 1e-2, 3e-2), betas=((0.5, 0.9), (0.6,)))
    cells = [cell(sections.lr_name("adamw", x), loss) for x, loss in zip(scope.rates, (1.2, 1.0, 2.0), strict=True)]
    cells += [cell(sections.lr_name("automuon", 1e-3), 1.3), cell(sections.lr_name("autoadam", 1e-3), 1.1)]
    extra = [cell("adamw_default", 1.4, 1.5), cell("automuon_default", 1.1, 1.2), cell("adamw.best03", 1.25, 1.25)]
    for name, losses in (("adamw", (2.0, 1.0)), ("mada", (1.2, 1.1))):
        cells += [cell(sections.betas_name(name, x, 0.6), loss) for x, loss in zip((0.5, 0.9), losses, strict=True)]
    t = table(*cells, *extra, cell("muon.best01", 1.0, 1.0))
    found = {x.what: x for x in all_figures([t], scope)}
    low, high, *_ = found.values()
    assert (low.measured, low.holds) == ("1.300", False)
    assert (high.measured, high.holds) == ("1.300", False)
    better = found["tasks where automuon's defaults are better than AdamW's, outside the spread"]
    assert (better.measured, better.holds) == ("1 of 1", True)
    assert found["language tasks and base lrs where automuon is below tuned AdamW"].measured == "0 of 3"
    assert found["language tasks and base lrs where autoadam is below tuned AdamW"].measured == "3 of 3"
    assert found["base lr 0.001 to 0.03: worst autoadam / best AdamW (geometric mean)"].measured == "1.100"
    muon = found["automuon at its defaults / tuned Muon, tasks with hidden matrices (geometric mean)"]
    assert muon.measured == "1.150"
    steps = next(x for name, x in found.items() if name.startswith("automuon at its defaults: steps"))
    assert steps.measured == f"{(50 + 50 * 0.75 / 0.85) / 100:.3f}"
    assert next(x for x in found.values() if "hyper lr" in x.what).holds is None
    assert found["grid of betas: worst mada / best AdamW (geometric mean)"].measured == "1.200"
    assert found["grid of betas: diverged runs of mada"].measured == "0"


def record(folder, loss):
    rows = RunRecord.create(folder, {"config": {}, "optimizer": "mada"})
    rows.log({"step": 0, "val_loss": 3.0, "seconds": 0.1})
    rows.log({"step": 10, "val_loss": loss, "seconds": 0.2, "speed": {"step_seconds": 0.004}})
    if loss is not None:
        rows.finish({"steps": 10, "seconds": 0.2, "final_val_loss": loss})


def test_only_numbers_make_a_run_diverge(tmp_path):
    for seed, loss in ((1, 2.0), (2, None), (3, None)):
        record(tmp_path / run_name("mada", seed), loss)
    errors = {"mada_seed=2": "NumericsError: loss or gradient", "mada_seed=3": "ConfigError: package"}
    found = read_cells(tmp_path, {"mada": (1, 2, 3, 4)}, errors)["mada"]
    assert (found.losses[0], found.diverged, found.missing) == (2.0, 1, 2)
    assert found.step_seconds == [0.004]
    assert measure.is_divergence("validation loss: expected a finite number, got another")


def read(*words):
    return command.read(command.arguments().read(words))


def test_options():
    scope, tasks = read("--tasks=digits_logistic", "--seeds=3,4", "--trials=7")
    assert (scope.seeds, scope.trials, scope.map_seeds) == ((3, 4), 7, (1, 2))
    assert [task.name for task in tasks] == ["digits_logistic"]
    with pytest.raises(ConfigError, match="bench, option --sections: expected defaults or tuned"):
        read("--sections=all", "--quick")


def test_a_task_without_its_data_is_left_out(tmp_path, capsys):
    _, tasks = read("--tasks=cifar_cnn", f"--data-dir={tmp_path}")
    assert tasks == []
    assert "note: task cifar_cnn is left out: data set cifar10" in capsys.readouterr().err


def test_the_quick_form_twice(tmp_path, capsys):
    """The second time nothing is trained, and the page is the same; a third, larger bench goes on from there."""
    words = ["bench", "--quick", "--sections=defaults,tuned,lr_map,ablations", f"--data-dir={tmp_path / 'data'}"]
    words += [f"--out={tmp_path / 'out'}", "--tasks=digits_mlp", "--families=adamw,automuon,prodigy"]
    cli.run(words)
    first = capsys.readouterr().out
    assert "| automuon_default |" in first
    assert "failed" not in first
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("summary.json")}
    page = (tmp_path / "out" / "bench.html").read_bytes()
    assert page.count(b"<svg") == 2
    cli.run(words)
    assert capsys.readouterr().out == first
    assert (tmp_path / "out" / "bench.html").read_bytes() == page
    cli.run([*words, "--seeds=1,2"])
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("summary.json")}
    assert before.items() <= after.items()
    assert len(after) > len(before)
    assert not list((tmp_path / "out").rglob("checkpoints"))
