"""The picture of a sweep holds the numbers of its table."""

import pytest

from cggm_med.reproduction.catalogue import TABLES
from cggm_med.reproduction.cells import Cell
from cggm_med.reproduction.outcome import MARK
from cggm_med.reproduction.sweep import draw_sweep

RHO = TABLES["cggm/rho"]


def cells(lacking=()):
    for row in RHO.rows:
        for column in RHO.columns:
            mean = None if row.name in lacking else 70.0 + len(row.name) + len(column.name)
            ends = None if mean is None or column.name == "F1" else (mean - 1, mean + 2)
            yield Cell(row.name, column.name, 1, mean, None, ends, "not known here")


@pytest.mark.parametrize("lacking", [(), ("rho = 1",), ("joint training",)], ids=["all", "no value", "no baseline"])
def test_points_intervals_and_the_baseline_are_those_of_the_cells(lacking, figure, tmp_path):
    made = list(cells(lacking))
    assert draw_sweep(tmp_path / "figures", RHO, made, phantom=True) == ("sweep.png",)
    (saved,) = figure
    assert MARK in saved.get_suptitle()
    assert [ax.get_ylabel() for ax in saved.axes] == ["Acc (%)", "F1 (%)"]
    for ax, column in zip(saved.axes, RHO.columns, strict=True):
        of_column = [cell for cell in made if cell.column == column.name]
        known = [(x, cell) for x, cell in enumerate(of_column[1:]) if cell.mean is not None]
        points, *others = ax.lines
        assert list(points.get_xdata()) == [x for x, _ in known]
        assert list(points.get_ydata()) == [cell.mean for _, cell in known]
        ends = [tuple(line.get_ydata()) for line in others if line.get_label() != "joint training"]
        assert ends == [cell.interval for _, cell in known if cell.interval]
        baseline = [line.get_ydata()[0] for line in others if line.get_label() == "joint training"]
        assert baseline == [cell.mean for cell in of_column[:1] if cell.mean is not None]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0.7", "1", "1.3", "1.6", "2"]


def test_a_table_that_is_no_sweep_has_no_such_picture(tmp_path):
    assert draw_sweep(tmp_path / "figures", TABLES["cggm/iemocap"], [], phantom=False) == ()
    assert list(tmp_path.iterdir()) == []
