"""The site: `make docs` builds it into out/docs."""

from docutils import nodes
from math_core import LatexToMathML
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import mada_optim

project = "mada-optim"
author = "The mada-optim authors"
release = version = mada_optim.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"mada-optim {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

default_role = "code"  # what a docstring has between backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_use_ivar = True

#: Browsers draw MathML themselves, so formulas need no script and no network. A formula that isn't LaTeX is an error.
MATHML = LatexToMathML()
#: Files outside of this folder, and the pages that include them; None: no page has it, so its name is no link.
INCLUDED = {
    "README": "index",
    "examples/README": "start/examples",
    "CONTRIBUTING": "inside/contributing",
    "SECURITY": "inside/security",
    "CITATION.cff": None,
}


def setup(app: Sphinx) -> None:
    """Registers the renderer of formulas that `html_math_renderer` names, and the links out of this folder."""
    app.add_html_math_renderer("mathml", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.connect("doctree-read", link_included)


def formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Writes a formula as MathML; one in a block may be scrolled where the page is too narrow."""
    is_block = isinstance(node, nodes.math_block)
    mathml = MATHML.convert_with_local_state(node.astext(), displaystyle=is_block)
    translator.body.append(f'<div class="math">{mathml}</div>\n' if is_block else mathml)
    raise nodes.SkipNode


def link_included(app: Sphinx, doctree: nodes.document) -> None:
    """Leads links to files outside of this folder to the pages that include them: on a forge they lead to the files."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        file = node["reftarget"].removeprefix(f"{app.srcdir.parent}/").removesuffix(".md").lstrip("./")
        if file not in INCLUDED or node["reftype"] != "myst":
            continue
        if (page := INCLUDED[file]) is None:
            node.replace_self(node.children)
        else:
            node.attributes.update(refdomain="doc", reftarget=page, reftargetid=None)
