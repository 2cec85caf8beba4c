"""Every table of a paper can be trained as it is declared, and says only what was read."""

import re
from pathlib import Path

import pytest

from cggm_med import registry
from cggm_med.comparison.experiment import plan_runs
from cggm_med.config import flat, parse_overrides
from cggm_med.errors import UnknownName
from cggm_med.metrics.classification_regression import FUSED
from cggm_med.reproduction import catalogue
from cggm_med.reproduction.paper_table import ADDED_MEGABYTES, Column, PaperTable, Published, Row
from cggm_med.reproduction.reproduce import Request, folds_of, plan_of, variants_of
from cggm_med.runs.settings import make_config
from cggm_med.task.segmentation import SegmentationTask

ROOT = Path(__file__).parents[2]
of_every_table = pytest.mark.parametrize("table", catalogue.TABLES.values(), ids=lambda table: table.name)


def configs(table, data):
    """The settings of every run of a table, by the words of its variant."""
    plan = plan_of(table, Request(Path("out"), data, [0]))
    return {
        words: make_config(
            plan.task,
            [plan.overrides, variant.overrides()],
            preset=plan.preset,
            strategy=variant.strategy,
        )
        for words, variant in variants_of(table).items()
    }


@of_every_table
def test_every_row_is_trained_with_the_settings_of_the_paper_but_for_its_own(table, tmp_path):
    preset = flat(registry.load(registry.TASKS, table.task).presets[table.preset])
    for words, config in configs(table, tmp_path).items():
        assert config.preset == table.preset
        stated = set(table.settings) | set(re.findall(r"[\w.]+=[^,\]]+", words))
        for key, value in preset.items():
            if not any(setting.startswith(f"{key}=") for setting in stated):
                section, name = key.split(".", 1)
                assert getattr(getattr(config, section), name) == (tuple(value) if isinstance(value, list) else value)


@of_every_table
def test_the_same_rows_are_trained_on_generated_data(table):
    for config in configs(table, None).values():
        assert config.preset == "tiny"
        assert config.data.path is None


@of_every_table
def test_columns_are_metrics_of_the_task(table):
    task = registry.load(registry.TASKS, table.task)
    segments = issubclass(task, SegmentationTask)
    known = {f"Dice {name}" for name in (*task.targets, "mean")} if segments else set(task.metrics)
    for column in table.columns:
        assert column.metric in {*known, ADDED_MEGABYTES}
        assert column.of in {FUSED, *task.known_modalities}


@of_every_table
def test_names_are_unique_and_published_figures_have_a_place_and_a_source(table):
    for names in ([row.name for row in table.rows], [column.name for column in table.columns]):
        assert len(set(names)) == len(names)
    rows, columns = {row.name: row for row in table.rows}, {column.name for column in table.columns}
    for (row, column), published in table.published.items():
        assert not rows[row].added
        assert column in columns
        assert re.fullmatch(r"\d+(\.\d+)?", published.figure)
        assert "https://" in published.source or "page above" in published.source
    assert table.differs


@of_every_table
def test_the_layout_is_the_one_that_the_page_of_tasks_explains(table):
    said = (ROOT / "docs" / "tasks.md").read_text()
    for line in table.data.layout:
        for file in re.findall(r"[\w{}*/,.-]+\.(?:h5|npy|pkl|csv|txt|hdf5|wav|json)\b", line):
            assert file in said, file


def test_a_table_over_the_folds_of_its_data_has_a_run_for_each_unless_one_is_chosen():
    table = catalogue.find("opm/ucf101")

    def runs(**asked):
        request = Request(Path("out"), Path("data"), [0], **asked)
        planned = plan_runs(plan_of(table, request), list(variants_of(table).values()), [0], folds_of(table, request))
        return [(run.folder.name, run.assignments[-1]) for run in planned if run.variant.strategy == "opm"]

    assert runs() == [(f"seed-0-fold-{n}-of-3", f"data.split={n}") for n in (1, 2, 3)]
    assert runs(settings=["data.split=2"]) == runs(folds=0) == [("seed-0", "train.seed=0")]


@of_every_table
def test_every_table_stands_on_the_page_of_the_papers(table):
    assert f"`{table.name}`" in (ROOT / "docs" / "papers.md").read_text()


def test_the_page_of_the_papers_names_no_other_table():
    page = (ROOT / "docs" / "papers.md").read_text()
    named = set(re.findall(r"`((?:cggm|ogm|opm|dgs)/[\w-]+)`", page))
    assert named == set(catalogue.TABLES)


def test_the_list_names_every_table_once_with_what_is_known():
    lines = catalogue.listing()
    for table in catalogue.TABLES.values():
        (line,) = [line for line in lines if line.split()[0] == table.name]
        assert line.endswith("published numbers known here]")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'cggm/iemocap'"):
        catalogue.find("cggm/iemocp")


def test_what_a_cell_says_of_the_paper():
    table = PaperTable(
        "p/t",
        next(iter(catalogue.TABLES.values())).paper,
        "",
        "iemocap",
        next(iter(catalogue.TABLES.values())).data,
        (Row("ours", "joint", added=True), Row("theirs", "cggm")),
        (acc := Column("Acc", "accuracy"), f1 := Column("F1", "weighted F1")),
        {("theirs", "Acc"): Published("75.38", "https://example.org")},
    )
    ours, theirs = table.rows
    assert [table.published_in(ours, acc), table.published_in(theirs, acc)] == ["not in the paper", "75.38"]
    assert table.published_in(theirs, f1) == "not known here"
    assert table.known == "1 of 2 published numbers known here"
    assert parse_overrides(table.settings) == {}
