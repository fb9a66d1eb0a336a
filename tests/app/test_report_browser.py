"""The report in a real browser: what Chromium makes of the page, with scripts and network as the page allows."""

import re
import shutil
import subprocess

import pytest

from mada_lab.experiments.toy.game import Game, record
from mada_lab.plots.gallery import gallery
from mada_lab.plots.save import save_figures
from mada_lab.records.run_record import read_run
from mada_lab.reports.published_logs import read_published
from mada_lab.reports.report import write_page, write_report
from tests.app.synthetic_runs import make_run

CHROMIUM = shutil.which("chromium")
SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
SWITCHES += ["--disable-background-networking", "--disable-component-update"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the command chromium on PATH")


def dom(page, profile):
    command = [CHROMIUM, *SWITCHES, f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_figures_are_there_and_the_browser_has_no_complaint(tmp_path):
    names = ["mada", "<img src=x onerror=alert(1)>"]
    runs = [make_run(tmp_path / names[0]), make_run(tmp_path / names[1], config={"optimizer": "<script>x<"})]
    content, complaints = dom(write_report(runs, tmp_path / "report.html"), tmp_path / "profile")
    assert complaints == []
    assert len(re.findall(r'<svg[^>]* role="img"', content)) == 2 + 6 + 6
    assert "Comparison of 2 runs" in content
    assert "<img" not in content
    assert "<script" not in content
    # A browser closes what it finds open; the last section is where it was written only if all before it balanced.
    assert content.rstrip().endswith("</section>\n</main>\n\n\n</body></html>")


def test_toys_and_published_logs_are_drawn_without_complaint(tmp_path):
    """A page whose runs have a regret, beside a training run and a log that was read from CSV."""
    toys = [read_run(_toy(tmp_path / name, name)) for name in ("adam", "mada")]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "log.csv").write_text(
        "step,rho,train_loss,val_loss\n0,1,3.5,3.5\n10,0.5,2.5,3\n20,0.5,2,2.5\n"
    )
    runs = [*toys, read_run(make_run(tmp_path / "gpt")), *read_published(tmp_path / "logs")]
    content, complaints = dom(write_page(runs, tmp_path / "report.html"), tmp_path / "profile")
    assert complaints == []
    figures = re.findall(r'<svg[^>]* aria-label="([^"]*)"', content)
    assert {"average_regret over time", "iterate over time", "rho over time"} <= set(figures)
    assert {"Validation loss over optimizer steps", "Coefficient rho over optimizer steps"} <= set(figures)
    assert "<h2>Regret</h2>" in content
    identifiers = re.findall(r' id="([^"]*)"', content)
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("name", ["toy", "coefficients"])
def test_a_figures_file_is_an_image_that_the_browser_draws(name, tmp_path):
    runs = [read_run(_toy(tmp_path / "toy", "mada")), read_run(make_run(tmp_path / "gpt"))]
    save_figures(gallery(runs), tmp_path / "figures")
    content, complaints = dom(tmp_path / "figures" / f"{name}.svg", tmp_path / "profile")
    assert complaints == []
    assert "parsererror" not in content
    assert content.count("<path") > 10


def _toy(folder, method):
    record(Game(problem="reddi", method=method, steps=500, points=40), folder)
    return folder
