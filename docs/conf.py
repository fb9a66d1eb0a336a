"""The site: `make docs` builds it into out/docs."""

import mada_optim

project = "mada-optim"
author = "The mada-optim authors"
release = version = mada_optim.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"mada-optim {release}"

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # files of the repository that are no pages; tests/test_docs.py checks links

default_role = "code"  # what a docstring has between backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_use_ivar = True
