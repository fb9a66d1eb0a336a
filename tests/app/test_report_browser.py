"""The report in a real browser: what Chromium makes of the page, with scripts and network as the page allows."""

import re
import shutil
import subprocess

import pytest

from mada_lab.report import write_report
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
