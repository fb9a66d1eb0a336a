"""Every figure of every page says what it shows: an alt text, and a label at each axis that has numbers.

Catches: a figure without a description, two figures of one description, an axis without its name, lines without a
legend, and a page that loads something.
"""

import re

import numpy as np
import pytest

from mada_lab.errors import ConfigError
from mada_lab.experiments import grid
from mada_lab.experiments.bench import page as bench
from mada_lab.experiments.bench import sections
from mada_lab.experiments.comparison import page as comparison
from mada_lab.experiments.comparison.compare import Group
from mada_lab.experiments.toy import page as toy
from mada_lab.experiments.toy.game import Game, record
from mada_lab.records.run_record import read_run
from mada_lab.reports.html import Figures, Folded, Listing, Page, Section, Table, Text
from mada_lab.reports.report import report
from tests.app.synthetic_runs import make_run
from tests.app.test_bench import cell, table
from tests.app.test_compare import surface


def runs_in(folder):
    return [read_run(make_run(folder / name)) for name in ("mada", "other")]


def a_report(folder):
    return report(runs_in(folder))


def a_toy(folder):
    for name in ("adam", "mada"):
        record(Game(problem="reddi", method=name, steps=300, points=20), folder / name)
    runs = [read_run(folder / name) for name in ("adam", "mada")]
    return report(runs, toy.sections(runs))


def a_comparison(folder):
    return comparison.page([Group(run.name, [run]) for run in runs_in(folder)])


def a_grid(folder):
    failed = np.arange(6.0).reshape(3, 2, 1)
    failed[0, 1] = np.nan
    return grid.page([surface("adamw"), surface("mada", failed)])


def a_bench(folder):
    scope = sections.Scope(rates=(1e-3, 1e-2), betas=((0.5, 0.9), (0.6, 0.99)), mapped=("adamw",), map_seeds=(1,))
    cells = [cell("automuon_default", 1.1, 1.2), cell("adamw.best03", 1.25, 1.25)]
    cells += [cell(sections.lr_name("adamw", x), 1.2) for x in scope.rates]
    names = [sections.betas_name(name, a, b) for name in ("adamw", "mada") for a in (0.5, 0.9) for b in (0.6, 0.99)]
    return bench.page([table(*cells, *(cell(x, 1.0 + i) for i, x in enumerate(names)))], scope, {}, ["a: failed"])


PAGES = (a_report, a_toy, a_comparison, a_grid, a_bench)


@pytest.fixture(scope="module", params=zip(PAGES, (14, 9, 3, 1, 3), strict=True), ids=lambda x: x[0].__name__)
def made(request, tmp_path_factory):
    """A page, and the number of its figures."""
    make, figures = request.param
    return make(tmp_path_factory.mktemp("page")), figures


def test_every_figure_has_an_alt_text_labels_and_a_legend(made):
    page, figures = made
    groups = [(part, section) for section in page.sections for part in section.parts if isinstance(part, Figures)]
    assert sum(len(part.figures) for part, _ in groups) == figures
    for part, section in groups:
        assert part.caption
        for alt, figure in part.figures.items():
            assert len(alt.split()) >= 4
            assert len(figure.axes) > 0
            figure.draw_without_rendering()
            for axes in figure.axes:
                assert axes.get_xlabel() or not shows_numbers(axes.xaxis), alt
                assert axes.get_ylabel() or not shows_numbers(axes.yaxis), alt
            listed = any(isinstance(x, Listing) and x.kind == "legend" for x in section.parts)
            named = any(axes.get_legend() or names_rows(axes) for axes in figure.axes)
            assert listed or figure.legends or named, alt


def names_rows(axes):
    return any(label.get_text().isalpha() for label in axes.get_yticklabels())


def shows_numbers(axis):
    ticks = axis.get_major_ticks()
    return any(tick.label1.get_visible() and tick.label1.get_text() for tick in ticks)


def test_alt_texts_and_ids_are_unique_and_nothing_is_loaded(made):
    content = made[0].html()
    alts = re.findall(r'<svg[^>]* role="img" aria-label="([^"]+)"', content)
    assert len(alts) == len(set(alts)) == content.count('class="card"')
    ids = re.findall(r' id="([^"]+)"', content)
    assert len(ids) == len(set(ids))
    assert "<script" not in content
    assert set(re.findall(r'(?:src|href)="(.)', content)) <= {"#"}
    assert 'name="viewport" content="width=device-width' in content
    assert "prefers-color-scheme: dark" in content


def test_text_is_escaped_in_every_part():
    evil = '<b>"&\u202e'
    parts = [Text(evil), Table([evil], [[evil]], evil), Folded(evil, Text(evil))]
    content = Page(evil, [Section(evil, parts)], [Text(evil, "lead")]).html()
    assert "<b>" not in content
    assert "\u202e" not in content
    assert content.count("&lt;b&gt;&#34;&amp;\N{REPLACEMENT CHARACTER}") == 10


def test_tables_mark_differences_from_the_first_run_and_numbers_that_are_none():
    content = Page(
        "x", [Section("y", [Table(["key", "a", "b"], [["k", "1", None], ["l", "1", "1"]], "", "keys")])]
    ).html()
    assert content.count("<mark>") == 1
    words = Page("x", [Section("y", [Table(["", "a"], [["k", "not finite"]])]), Section("empty", [])]).html()
    assert '<span class="bad">not finite</span>' in words
    assert "empty" not in words


def test_a_table_is_markdown_too():
    assert Table(["a", "b"], [["1", "2"]]).markdown() == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"report, .*: expected a file that can be written"):
        Page("x", []).write(tmp_path / "file" / "page.html")
