"""What pages share: escaping, tables and embedded pictures."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

import cggm_med
from cggm_med.pages.pictures import embedded_chart
from cggm_med.pages.tables import Cell, html_table
from cggm_med.report.render import render


def rendered(*arguments, **options):
    """The HTML of a table, as a section of the page has it."""
    cost = html_table(*arguments, **options)
    return render("cost.html", cost=cost, csv={"label": "CSV", "address": "x.csv"})


class Elements(HTMLParser):
    """Start tags and texts as a browser reads them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_text_is_escaped_once_in_elements_and_in_attributes():
    hostile = """<b title="x">'&amp;"""
    made = Elements(rendered(hostile, [hostile, "b"], [[hostile, Cell(hostile, hostile)]], sortable=True))
    assert made.texts.count(hostile) == 4
    assert not [tag for tag, _ in made.tags if tag == "b"]
    attributes = [value for _, found in made.tags for value in found.values()]
    assert attributes.count(hostile) == 2, "the label of the table and the value of a cell"


def test_every_value_in_an_attribute_of_a_template_is_quoted():
    """Escaping protects an attribute only inside quotation marks."""
    for template in Path(cggm_med.__file__).parent.glob("*/templates/*.html"):
        text = re.sub(r"\{%.*?%\}|\{#.*?#\}", "", template.read_text(), flags=re.DOTALL)
        assert re.findall(r"=\s*\{\{", text) == [], template.name
        assert not re.search(r"\|\s*safe\b", text), template.name


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="'cost' is undefined"):
        render("cost.html", csv={"label": "CSV", "address": "x.csv"})


def test_numbers_of_a_column_have_equally_many_decimals_and_keep_their_value():
    made = rendered("t", ["a", "b", "c"], [["x", 79.04, 0.5], ["y", 4.472136, None], ["z", Cell("1 s", 1.25), 1e-6]])
    assert '<td class="number" data-value="79.04">79.0</td>' in made
    assert '<td class="number" data-value="4.472136">4.5</td>' in made
    assert '<td class="number">–</td>' in made
    assert ">1e-06</td>" in made
    assert '<th scope="col" class="number">b</th>' in made
    assert '<th scope="col">a</th>' in made


def test_a_chart_keeps_its_pixels_and_is_shown_at_half_their_number(tmp_path):
    Image.new("RGB", (300, 120), "white").save(tmp_path / "a.png")
    sharp, small = embedded_chart(tmp_path / "a.png", "", "", None), embedded_chart(tmp_path / "a.png", "", "", 100)
    assert ((sharp.width, sharp.height), (small.width, small.height)) == ((150, 60), (100, 40))
    for picture, size in ((sharp, (300, 120)), (small, (100, 40))):
        kind, _, content = picture.data.partition(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == size
