"""The documentation builds as a site without a warning, and what its pages link to exists.

Catches: a link to a file that was moved, a page that no table of contents has, a docstring that isn't what it seems, a
page that needs the network, a figure that a screen reader can't name, a command that no page explains.
"""

import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mada_optim
from mada_lab.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
#: What a browser loads without being asked to, by the attribute that says from where.
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


def named(paths):
    return {"argvalues": paths, "ids": [str(path.relative_to(ROOT)) for path in paths]}


@pytest.mark.parametrize("page", **named(PAGES))
def test_what_a_page_links_to_exists(page):
    links = [x for x in LINK.findall(page.read_text()) if not x.startswith(("http:", "https:"))]
    assert [x for x in links if not (page.parent / x).exists()] == []


@pytest.mark.parametrize("page", **named(PAGES))
def test_the_programs_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for program in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        if "model = " not in program:  # the calls of a rule's page, of a model that is the reader's
            continue
        exec(compile(program, page.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", ["README.md", "docs/lab/commands.md"])
def test_every_command_is_named(page):
    text = (ROOT / page).read_text()
    commands = [words if isinstance(words, str) else " ".join(words) for words in COMMANDS]
    assert [words for words in commands if not re.search(rf"(`|mada-lab ){words}\b", text)] == []


class Loads(HTMLParser):
    """Collects the tags of a page that load something, and its images."""

    def __init__(self, page):
        super().__init__()
        self.sources, self.images = [], []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if attributes.get("rel") not in ("canonical", "index", "search", "next", "prev"):
            self.sources.append(attributes.get(LOADED.get(tag)) or "")
        if tag == "img":
            self.images.append(attributes)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = ["--quiet", "--fail-on-warning", "--builder", "html", str(ROOT / "docs"), str(folder)]
    built = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_reference_lists_what_the_library_exports(site):
    reference = (site / "reference" / "api.html").read_text()
    listed = re.findall(r'id="mada_optim[\w.]*\.(\w+)"', reference)
    assert [name for name in mada_optim.__all__ if name not in listed] == []
    for name in ("MADA", "AutoMuon", "HyperOptimizer.step", "optimizers.Adan", "Learner.step", "rule.Rule"):
        assert f'id="mada_optim.{name}"' in reference
    text = unescape(re.sub("<[^>]+>", "", reference))
    assert "AutoMuon(params: " in text
    assert "**given" not in text
    assert reference.count('class="highlight') > 3, "examples in docstrings are code"


def test_no_page_loads_anything_from_the_network(site):
    pages = {page: Loads(page).sources for page in site.rglob("*.html")}
    assert len(pages) > 40
    assert {page: found for page, sources in pages.items() if (found := [x for x in sources if is_remote(x)])} == {}
    styles = [x for css in site.rglob("*.css") for x in re.findall(r"(?:@import|url\()\W*(\S+)", css.read_text())]
    assert [x for x in styles if is_remote(x)] == []


def is_remote(address):
    return address.startswith(("http:", "https:", "//"))


def test_formulas_are_drawn_by_the_browser(site):
    page = (site / "reference" / "rules" / "mada.html").read_text()
    assert page.count("<math") > 10
    assert "MathJax" not in page
    assert r"\frac" not in page
    assert (site / "_static" / "STIXTwoMath-Regular.ttf").exists()  # or accents lie on their letters


def test_every_figure_has_a_text_in_its_place(site):
    images = [image for page in site.rglob("*.html") for image in Loads(page).images]
    figures = [image for image in images if "_images/" in image["src"]]
    assert len(figures) > 10
    assert [image["src"] for image in figures if len(image.get("alt") or "") < 20] == []
