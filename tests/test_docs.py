"""The documentation builds as a site without a warning, and what its pages link to exists.

Catches: a link to a file that was moved, a page that no table of contents has, a docstring that isn't what it seems.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page):
    links = [x for x in LINK.findall(page.read_text()) if not x.startswith(("http:", "https:"))]
    assert [x for x in links if not (page.parent / x).exists()] == []


def test_the_site_builds(tmp_path):
    words = ["--quiet", "--fail-on-warning", "--builder", "html", str(ROOT / "docs"), str(tmp_path)]
    built = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "api.html").read_text()
    for name in ("MADA", "HyperOptimizer.step", "presets.Adan", "spec.Rule"):
        assert f'id="mada_optim.{name}"' in reference
