"""The check of the built site finds each kind of fault, and tables are marked; ``make docs`` checks the site itself."""

import importlib.util
from pathlib import Path

from docutils import nodes
from docutils.utils import new_document

ROOT = Path(__file__).parents[1]


def module(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded


check_links, conf = module("check_links"), module("conf")


def site(folder, **pages):
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    return sorted(check_links.faults(folder))


def test_a_sound_site_has_no_fault(tmp_path):
    there = '<p id="a b"><a name="old"></a><img src="data:image/png;base64,AA"><a href="https://arxiv.org">paper</a>'
    here = '<a href="there.html#a%20b"><a href="there.html#old"><a href="#top"><a href="file.txt"><a href="">'
    (tmp_path / "file.txt").write_text("anything")
    assert site(tmp_path, here=here, there=there) == []


def test_each_kind_of_fault_is_found(tmp_path):
    here = (
        '<a href="gone.html"><a href="there.html#gone"><a href="#gone"><img src="gone.png">'
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" href="//fonts.example/x.css">'
    )
    assert site(tmp_path, here=here, there="") == [
        "here.html: #gone has no such anchor",
        "here.html: fetches //fonts.example/x.css",
        "here.html: fetches https://cdn.example/x.js",
        "here.html: gone.html is not there",
        "here.html: gone.png is not there",
        "here.html: there.html#gone has no such anchor",
    ]


def test_a_site_without_pages_is_a_fault(tmp_path):
    assert site(tmp_path) == [f"{tmp_path}: no page; build the site first"]


def marked(*rows):
    """Classes of a table of such rows, and the cells that count as numbers."""
    cells = [[nodes.entry("", nodes.paragraph(text=text)) for text in row] for row in rows]
    table = nodes.table("", nodes.tgroup("", nodes.tbody("", *(nodes.row("", *row) for row in cells))))
    document = new_document("page")
    document += table
    conf.tell_numbers_from_prose(None, document)
    return table["classes"], [cell.astext() for row in cells for cell in row if "number" in cell["classes"]]


def test_numbers_stay_on_a_line_and_only_an_explanation_widens_the_last_column():
    numbers = ["0.649 ± 0.040", "+0.041", "[-0.019, +0.101]", "< 0.001", "39.7 (33.2)", "6"]
    assert marked(["joint", *numbers], ["T1", "t1ce 3", "-", "12 of 15 runs"]) == ([], numbers)
    assert marked(["cost.json", "time and memory of training, if it was not interrupted"]) == (["explained"], [])
