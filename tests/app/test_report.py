"""The report is judged by what a reader's browser would get: its text, its figures, and nothing else."""

import html
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import escape

from mada_lab.errors import ConfigError
from mada_lab.plots import style
from mada_lab.plots.losses import training_loss, validation_loss
from mada_lab.records.outcome import outcome
from mada_lab.records.run_record import RunRecord, read_run
from mada_lab.reports.report import headline, report
from mada_lab.reports.runs import sentence
from tests.app.synthetic_runs import INITIAL, make_run

VOID = {"meta", "br"}
PARTS = ["html", "head", "meta", "title", "style", "body", "main", "header", "section", "h1", "h2", "p", "div", "span"]
TABLES = ["table", "thead", "tbody", "tr", "th", "td", "code", "mark", "br", "ul", "li", "details", "summary"]
FIGURES = ["figure", "figcaption", "svg", "g", "path", "defs", "use", "text", "clippath", "rect", "line"]
EVIL = [
    "<script>alert(1)<",
    "$\\frac{1}$",
    "$\\frac{",
    '"onload=',
    "]]>",
    "_hidden",
    "&amp;",
    "\x1b[31mred\n",
    "名\u202egnp",
    "{x}%s",
]
SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Every tag with its attributes, and all text; complains about tags that don't balance."""

    def __init__(self, content):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.texts = [], [], []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [
        make_run(folder / "mada"),
        make_run(folder / "adamw", config={"optimizer": "adamw", "rho": 1}, learned=False),
    ]


@pytest.fixture(scope="module")
def content(pair, tmp_path_factory):
    """The report about the pair, drawn once for all that is asked of it."""
    return written(pair, tmp_path_factory.mktemp("report") / "out" / "report.html")


def write_report(folders, out):
    return report([read_run(folder) for folder in folders]).write(out)


def written(folders, out):
    return write_report(folders, out).read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_of_known_tags(content):
    page = Page(content)
    assert {tag for tag, _ in page.tags} <= {*PARTS, *TABLES, *FIGURES}
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("h1")) == 1


def test_nothing_is_loaded_and_nothing_runs(content):
    page = Page(content)
    assert "<script" not in content.lower()
    policies = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "srcset", "action")], tag
        assert attributes.get("href", "#").startswith("#"), tag
    addresses = set(re.findall(r"https?://[^\"'\s<]*", content))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a namespace
    assert "@import" not in content
    assert set(re.findall(r"url\((.)", content)) == {"#"}


def test_ids_are_unique_and_every_reference_has_its_target(content):
    ids = [attributes["id"] for _, attributes in Page(content).tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 100
    references = set(re.findall(r'href="#([^"]+)"', content)) | set(re.findall(r"url\(#([^)]+)\)", content))
    assert references
    assert references <= set(ids)


def test_the_same_records_give_the_same_bytes_whatever_the_users_matplotlib_settings(pair, content, tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"lines.linewidth": 9, "axes.grid": False, "font.size": 30, "text.parse_math": True}):
        assert write_report(pair, tmp_path / "b.html").read_bytes() == content.encode()


def test_a_run_without_coefficients_stands_beside_one_that_learns(pair, content, tmp_path):
    text = " ".join(Page(content).texts)
    assert "0.6000 → 0.2500" in text
    assert "adamw" not in legend_of(content)
    alone = " ".join(Page(written(pair[1:], tmp_path / "alone.html")).texts)
    assert "Nothing was learned in any of the runs." in alone
    assert "No run logged a hypergradient other than 0." in alone
    assert "Learned coefficients" not in alone


def legend_of(content):
    """The text of the first legend."""
    return content.split('<ul class="legend">')[1].split("</ul>")[0]


def test_the_page_opens_with_a_sentence_per_run(pair, content):
    opening = content.split("<header>")[1].split("</header>")[0]
    items = [html.unescape(re.sub("<.*?>", "", item)) for item in opening.split("<li>")[1:]]
    for item, run in zip(items, map(read_run, pair), strict=True):
        assert sentence(run) in item
        assert run.name in item


def test_trajectories_come_first_and_losses_after_them(content):
    titles = re.findall("<h2>(.*?)</h2>", content)
    assert titles[:4] == ["Learned coefficients", "Results", "Losses", "Coefficients"]
    assert content.index("Coefficient gamma over optimizer steps") < content.index("<table")


def test_coefficients_that_nobody_learns_are_in_one_line_and_not_drawn(tmp_path):
    for name, learned in (("lr", 0.1), ("fixed", 0.0)):
        record = RunRecord.create(tmp_path / name, {})
        for step in range(2):
            coefficients = {"beta1": 0.9, "lr": 1e-3 * (1 + step * learned)}
            record.log({"step": step, "coefficients": coefficients, "hypergradients": {"beta1": 0.0, "lr": learned}})
    content = report([read_run(tmp_path / name) for name in ("lr", "fixed")]).html()
    texts = Page(content).texts
    assert "0.001 → 0.0011" in texts
    assert texts.count("beta1 0.9") == 1
    assert "beta1 0.9, lr 0.001" in texts
    assert "Coefficient beta1 over" not in content
    assert "fixed" not in legend_of(content)
    alone = " ".join(Page(report([read_run(tmp_path / "fixed")]).html()).texts)
    assert "Nothing was learned in any of the runs." in alone
    assert "No run logged a hypergradient other than 0." in alone


def test_what_a_guard_moves_is_told_as_applied_and_not_as_learned(tmp_path):
    method = {"description": "Adam", "learned": ["rho"], "lr": [0.1]}
    record = RunRecord.create(tmp_path / "run", {"method": method})
    for step in range(3):
        coefficients = {"beta1": 0.3 * step, "rho": 1 - 0.1 * step, "c": 1.0}
        record.log({"step": step, "coefficients": coefficients, "hypergradients": {"rho": 0.1}})
    run = read_run(tmp_path / "run")
    assert run.learned == ("rho",)
    content = report([run]).html()
    assert "beta1 0 → 0.6, c 1" in Page(content).texts
    assert re.findall('aria-label="Coefficient (.*?) over', content) == ["rho"]


def test_scopes_are_learned_by_the_names_of_their_coefficients(tmp_path):
    method = {"description": "Adam", "learned": ["beta1"], "lr": [0.1]}
    record = RunRecord.create(tmp_path / "run", {"method": method})
    for step in range(2):
        record.log({"step": step, "coefficients": {f"h.{i}.w": {"beta1": 0.9, "rho": 1.0} for i in range(30)}})
    run = read_run(tmp_path / "run")
    assert run.learned == tuple(f"h.{i}.w.beta1" for i in range(30))
    text = " ".join(Page(report([run]).html()).texts)
    assert text.count("6 more are left out.") == 3  # of the panels, of the table, and of what isn't learned


WINDOW, MARGINS = 1280, 2 * 32 + 2


def test_tables_are_not_cut_off_at_1280_pixels(tmp_path):
    """Widths by the style sheet: 28 pixels of padding a cell, and 8 a character, which is more than it takes."""
    folders = [make_run(tmp_path / "mada"), make_run(tmp_path / "adamw", learned=False)]
    record = RunRecord.create(tmp_path / "automuon", {"optimizer": "automuon", "method": AUTOMUON})
    for step in range(3):
        coefficients = INITIAL | {"omega": 1.0, "lr": 1.2345e-3 * (1 + step)}
        record.log({"step": step, "train_loss": 2.0, "coefficients": coefficients, "hypergradients": {"lr": 0.1}})
    record.finish({"optimizer": "automuon", "steps": 3, "final_val_loss": 1.9, "seconds": 1e3})
    content = report([read_run(folder) for folder in (*folders, tmp_path / "automuon")]).html()
    tables = re.findall('<table class="n(?:umbers|ames)">.*?</table>', content, re.DOTALL)
    assert len(tables) == 2
    for each in tables:
        assert sum(map(_column_width, _columns(each))) <= min(WINDOW - 15, 1200) - MARGINS
    rows = [
        [html.unescape(re.sub("<.*?>", "", cell)) for cell in row] for row in zip(*_columns(tables[1]), strict=True)
    ]
    assert [row[0] for row in rows] == ["coefficient", *INITIAL, "lr"]
    assert rows[-1][1:3] == ["automuon", "0.00123 → 0.0037"]


AUTOMUON = {"description": "Muon on hidden matrices and Adam elsewhere", "learned": ["lr"], "lr": [1.2345e-3]}


def _columns(content):
    rows = re.findall("<tr>(.*?)</tr>", content, re.DOTALL)
    return list(zip(*(re.findall("<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows), strict=True))


def _column_width(cells):
    lines = [re.sub("<.*?>", "", line) for cell in cells for line in cell.split("<br>")]
    sample = 30 if any("<svg" in cell for cell in cells) else 0
    return 28 + sample + 8 * max(len(html.unescape(line)) for line in lines)


def test_text_from_runs_is_shown_and_never_obeyed(tmp_path):
    runs = [read_run(make_run(tmp_path / name, config={"dataset": SCRIPT, name: name})) for name in EVIL]
    content = report(runs).html()
    page = Page(content)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in content.lower()
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", content)
    drawn = [text.get_text() for text in training_loss(runs).legends[0].get_texts()]
    for name, label in zip(EVIL, drawn, strict=True):
        shown = style.printable(name)
        assert label == shown
        assert shown in page.texts
        assert str(escape(shown)) in content
    assert SCRIPT in page.texts


def test_a_long_name_is_whole_in_tables_and_short_in_legends(tmp_path):
    name = "mada" + "x" * 200 + "seed2"
    run = make_run(tmp_path / name)
    assert name in Page(report([read_run(run)]).html()).texts
    [drawn] = training_loss([read_run(run)]).axes[0].get_legend().get_texts()
    assert len(drawn.get_text()) == 32
    assert drawn.get_text().endswith("seed2")


def test_a_run_with_no_evaluation_yet(tmp_path):
    run = read_run(make_run(tmp_path / "young", evaluate=None, finish=False))
    assert headline([run]) == ["young: no validation loss (mada, 40 steps)"]
    assert [text.get_text() for text in validation_loss([run]).axes[0].texts] == ["no evaluation yet"]
    text = " ".join(Page(report([run]).html()).texts)
    assert "no summary: still going, or stopped; latest values" in text


def test_a_run_with_no_row_yet(tmp_path):
    RunRecord.create(tmp_path / "new", {})
    page = Page(report([read_run(tmp_path / "new")]).html())
    assert "no step logged yet" in page.texts
    assert "not recorded" in page.texts


def test_a_run_whose_rows_are_lost(tmp_path):
    make_run(tmp_path / "bare", steps=40)
    (tmp_path / "bare" / "metrics.jsonl").write_text("")
    run = read_run(tmp_path / "bare")
    assert headline([run]) == [f"bare: final validation loss {run.summary['final_val_loss']:.4f} (mada, 40 steps)"]
    report([run]).write(tmp_path / "bare.html")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_gaps_and_said_so(tmp_path, bad):
    record = RunRecord.create(tmp_path / "nan", {"optimizer": "mada"})
    for step in range(30):
        loss = bad if step > 20 else 3.0 - step / 30
        record.log({"step": step, "train_loss": loss, "val_loss": loss, "coefficients": {"c": loss}})
    record.finish({"steps": 30, "final_val_loss": bad, "final_train_loss": bad})
    run = read_run(tmp_path / "nan")
    found = outcome(run)
    assert math.isnan(found.val_loss)
    assert found.best_val_loss == pytest.approx(3.0 - 20 / 30)
    assert headline([run]) == ["nan: final validation loss not finite (mada, 30 steps)"]
    assert Page(report([run]).html()).texts.count("not finite") == 2
    drawn = training_loss([run]).axes[0].lines[-1].get_ydata()
    assert np.isnan(drawn[21:]).all()
    assert np.isfinite(drawn[:21]).all()


def test_a_run_whose_every_loss_is_not_finite(tmp_path):
    record = RunRecord.create(tmp_path / "nan", {})
    record.log({"step": 0, "train_loss": math.nan, "coefficients": {"c": math.nan}, "hypergradients": {"c": math.nan}})
    assert "no finite value" in Page(report([read_run(tmp_path / "nan")]).html()).texts


def test_differences_are_signed_and_as_they_are(tmp_path):
    runs = [read_run(make_run(tmp_path / name, gain=gain)) for name, gain in (("a", 0.0), ("worse", -0.5), ("b", 0.5))]
    losses = [outcome(run).val_loss for run in runs]
    texts = Page(report(runs).html()).texts
    for loss in losses[1:]:
        assert f"{loss - losses[0]:+.4f}" in texts
    assert losses[1] > losses[0] > losses[2]
    assert headline(runs)[1] == f"worse: final validation loss {losses[1]:.4f} (mada, 40 steps)"


def test_runs_of_one_folder_name_are_told_apart(tmp_path):
    runs = [read_run(make_run(tmp_path / parent / "run")) for parent in ("x", "y")]
    assert [line.split(":")[0] for line in headline(runs)] == ["x/run", "y/run"]
    assert {"x/run", "y/run"} <= set(Page(report(runs).html()).texts)


def test_configuration_marks_what_differs(content):
    different, same = content.split("<h2>Configuration</h2>")[1].split("<h2>Origin</h2>")[0].split("<details>")
    assert "<mark>adamw</mark>" in different
    assert "<mark>1</mark>" in different
    assert "learning_rate" not in different
    assert "0.0006" in same
    assert "<mark>" not in same
    assert content.count("a1" * 32) == 2  # the hash of each run's training split, whole


def test_no_run_is_a_config_error_and_so_is_a_place_that_can_not_be_written(pair, tmp_path):
    with pytest.raises(ConfigError, match="expected at least one run folder, got none"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(ConfigError, match=r"report, .*: expected a file that can be written"):
        write_report(pair, pair[0] / "manifest.json" / "report.html")
    with pytest.raises(ConfigError, match=r"nowhere/manifest\.json"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
