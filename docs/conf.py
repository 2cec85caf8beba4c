"""How Sphinx makes the documentation site of the pages as they stand in the repository: ``make docs``.

The source is the root of the repository, not this folder, so that the links between pages, to ``README.md`` and to
files of the source are the same here and where the repository is browsed.
"""

import importlib.metadata

project = "cggm-med"
copyright = "the cggm-med contributors, Apache-2.0"
release = importlib.metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_external_toc",
]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**"]
# Other folders of the root are not walked through.
exclude_patterns = [".*", "benchmarks", "build", "cggm_med", "dist", "pipelines", "runs", "tasks", "tests"]
external_toc_path = "docs/_site/toc.yml"

myst_heading_anchors = 4  # as GitHub names them
default_role = "code"
highlight_language = "text"

napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
smartquotes_action = "qe"  # no dashes: most are options of commands

templates_path = ["_site"]
html_theme = "furo"
html_title = f"cggm-med {release}"
html_additional_pages = {"index": "to_the_start.html"}
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
