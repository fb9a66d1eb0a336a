"""The documentation builds as a site without a warning, and what its pages link to exists.

Catches: a link to a file that was moved, a page that no table of contents has, a docstring that isn't what it seems.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mada_optim

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page):
    links = [x for x in LINK.findall(page.read_text()) if not x.startswith(("http:", "https:"))]
    assert [x for x in links if not (page.parent / x).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_programs_of_a_page_run(page, tmp_path):
    for program in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        if "model = " not in program:  # the calls of a rule's page, of a model that is the reader's
            continue
        run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr


def test_the_site_builds(tmp_path):
    words = ["--quiet", "--fail-on-warning", "--builder", "html", str(ROOT / "docs"), str(tmp_path)]
    built = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "reference" / "api.html").read_text()
    listed = re.findall(r'id="mada_optim[\w.]*\.(\w+)"', reference)
    assert [name for name in mada_optim.__all__ if name not in listed] == []
    for name in ("MADA", "AutoMuon", "HyperOptimizer.step", "optimizers.Adan", "Learner.step", "spec.Rule"):
        assert f'id="mada_optim.{name}"' in reference
