"""The check of the built site finds each kind of fault; that the site itself has none is checked by ``make docs``."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]
specification = importlib.util.spec_from_file_location("check_links", ROOT / "docs" / "check_links.py")
check_links = importlib.util.module_from_spec(specification)
specification.loader.exec_module(check_links)


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
