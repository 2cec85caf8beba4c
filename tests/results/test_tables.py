"""Tables in a terminal: what a narrow one breaks, and what it leaves whole."""

import io

import pytest
from rich.console import Console

from cggm_med.results.tables import Table, print_table

HEADER = ("strategy", "mean ± sd", "difference", "95 % interval", "p (max-t)", "detectable", "rank")
ROW = ("uniform, subset_view=0.5", "0.067 ± 0.011", "+0.000", "[-0.010, +0.020]", "0.120", "0.050", "1")


def shown(table, width, fold=True):
    out = io.StringIO()
    print_table(table, Console(file=out, width=width), fold=fold)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_words_of_a_header_that_fit_are_not_broken(width):
    lines = shown(Table("", HEADER, (ROW,)), width)
    assert {word for name in HEADER for word in name.split()} <= set(lines.replace("┃", " ").split())
    assert max(map(len, lines.splitlines())) <= width


def test_a_narrower_terminal_breaks_them_rather_than_leave_columns_out():
    lines = shown(Table("", HEADER, (ROW,)), 50).splitlines()
    assert max(map(len, lines)) <= 50
    assert len({line.count("┃") for line in lines if "┃" in line}) == 1
