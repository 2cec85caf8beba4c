"""How Sphinx makes the documentation site of the pages as they stand in the repository: ``make docs``.

The source is the root of the repository, not this folder, so that the links between pages, to ``README.md`` and to
files of the source are the same here and where the repository is browsed.
"""

import importlib.metadata
import re

from docutils import nodes
from sphinx.application import Sphinx

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
    "sphinx_gallery.gen_gallery",
]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/**"]
# Other folders of the root are not walked through.
exclude_patterns = [".*", "benchmarks", "build", "cggm_med", "dist", "pipelines", "runs", "tasks", "tests", "tutorials"]
exclude_patterns += ["docs/tutorials/*.ipynb", "docs/tutorials/*.py"]
external_toc_path = "docs/_site/toc.yml"
suppress_warnings = ["etoc.toctree"]  # the page of the tutorials is written with a toctree of its own

myst_heading_anchors = 4  # as GitHub names them
default_role = "code"
highlight_language = "text"

napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "docs/tutorials",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),
    "min_reported_time": 3600,  # seconds differ from build to build
    "show_signature": False,
    "write_computation_times": False,
}

templates_path = ["_site"]
html_theme = "furo"
html_static_path = ["_site/static"]
html_css_files = ["tables.css"]
html_title = f"cggm-med {release}"
html_additional_pages = {"index": "to_the_start.html"}
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"


def link_to_the_built_tutorials(app: Sphinx, name: str, text: list[str]) -> None:
    """Make links to the source of a tutorial, which browsers of the repository want, lead to the executed page."""
    text[0] = re.sub(r"\]\((?:\.\./)+tutorials/(\w+)\.py\)", r"](/docs/tutorials/\1.rst)", text[0])


def tell_numbers_from_prose(app: Sphinx, document: nodes.document) -> None:
    """Mark cells of numbers and tables that end with an explanation, for ``tables.css``."""
    for table in document.findall(nodes.table):
        for row in table.findall(nodes.row):
            cells = [cell for cell in row.children if isinstance(cell, nodes.entry)]
            for cell in cells:
                if re.fullmatch(r"[-+±<\d.,%\[\]() ]*\d[-+±<\d.,%\[\]() ]*", cell.astext()):
                    cell["classes"].append("number")
            if cells and len(cells[-1].astext()) > 40 and "explained" not in table["classes"]:
                table["classes"].append("explained")


def setup(app: Sphinx) -> None:
    """Connect what is done to each page before and after it is parsed."""
    app.connect("source-read", link_to_the_built_tutorials)
    app.connect("doctree-read", tell_numbers_from_prose)
