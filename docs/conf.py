"""How the documentation is built: `make docs` writes it to `docs/_build/html`."""

from importlib.metadata import version as version_of

project = "mcdropout"
version = release = version_of("mcdropout")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mcdropout"
html_copy_source = False
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository, which a test follows
nitpicky = False
