"""The robustness figure: its lines have the numbers of the table, from the clean scan on."""

import pytest
from matplotlib.image import imread

from cggm_med.evaluation.robustness.figure import robustness_figure


def row(artefact, modalities, severity, dice, region="mean"):
    return {"artefact": artefact, "modalities": modalities, "severity": severity, "region": region, "dice_mean": dice}


CLEAN = row("clean", "", 0, 0.8)
NOISE = [
    row("noise", m, s, d)
    for m, values in {"t1": (0.7, 0.5), "t2": (0.75, 0.65), "t1+t2": (0.6, 0.31)}.items()
    for s, d in zip((1, 4), values, strict=True)
]


def test_lines_begin_at_the_clean_scan(figure, tmp_path):
    other = row("noise", "t1", 1, 0.1, region="WT")  # regions are not drawn
    robustness_figure(tmp_path / "a.png", "title", [CLEAN, *NOISE, other, row("missing", "t1", 0, 0.2)], ["t1", "t2"])
    noise, missing = figure[0].axes
    lines = [(list(x.get_xdata()), list(x.get_ydata())) for x in noise.lines if len(x.get_xdata()) == 3]
    assert lines == [([0, 1, 4], [0.8, 0.7, 0.5]), ([0, 1, 4], [0.8, 0.75, 0.65]), ([0, 1, 4], [0.8, 0.6, 0.31])]
    assert len({(x.get_color(), x.get_marker()) for x in noise.lines if len(x.get_xdata()) == 3}) == 3
    assert noise.get_ylim() == (0.3, 1)
    assert missing.get_ylim() == (0, 1)
    assert [bar.get_height() for bar in missing.patches] == [0.2]
    assert [text.get_text() for text in figure[0].legends[0].get_texts()] == ["t1", "t2", "all at once"]


@pytest.mark.parametrize(
    "rows",
    [
        [CLEAN],
        [CLEAN, row("missing", "t1", 0, 0.0)],
        [row("clean", "", 0, 1.0), row("noise", "t1", 5, 1.0)],
        [CLEAN, *(row(f"artefact {i}", "t1", 5, 0.1 * i) for i in range(7))],
    ],
    ids=["clean alone", "missing alone", "nothing lost", "many"],
)
def test_any_number_of_panels(pictures, rows, tmp_path):
    robustness_figure(tmp_path / "a.png", "title", rows, ["t1"])
    assert imread(tmp_path / "a.png").size
