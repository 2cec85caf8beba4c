"""The page of all tasks has each of them, and every setting that is not on the page of settings."""

import dataclasses
import re
from pathlib import Path

import pytest

from cggm_med import registry
from cggm_med.runs.settings import make_config
from cggm_med.task.segmentation import SegmentationTask

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "tasks.md").read_text()
SETTINGS = (DOCS / "reference" / "settings.md").read_text()
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \|", PAGE, re.M))
OTHERS = sorted(set(registry.names(registry.TASKS)) - {"brats2021"})


def test_every_task_is_in_the_table():
    first = PAGE.split("## What holds")[0]
    assert set(re.findall(r"`(\w+)`", "".join(line for line in first.splitlines() if line.startswith("|")))) == {
        "brats2021",
        *OTHERS,
    }


@pytest.mark.parametrize("task", OTHERS)
def test_every_setting_of_its_own_is_explained(task):
    cls = registry.load(registry.TASKS, task)
    for section, kind in (("data", cls.DataConfig), ("model", cls.ModelConfig), ("task", cls.TaskConfig)):
        for field in dataclasses.fields(kind):
            key = f"{section}.{field.name}"
            pages = PAGE + SETTINGS * issubclass(cls, SegmentationTask)
            assert key in ("task.name", "task.modalities") or f"`{key}`" in pages, key


@pytest.mark.parametrize("task", ["mosi", "mosei", "iemocap", "food101"])
def test_the_table_of_the_sequence_network_holds_the_presets(task):
    columns = {"mosi": 1, "mosei": 1, "iemocap": 2, "food101": 3}
    config = make_config(task, [], preset="paper").model
    rows = [
        line.strip("| ").split(" | ")
        for line in PAGE.splitlines()
        if line.startswith("| `model.") and line.count("|") == 6
    ]
    assert len(rows) == 11
    for row in rows:
        value = getattr(config, row[0].strip("`").split(".")[1])
        assert row[columns[task]] == ("-" if value is None else str(value))


def test_modalities_are_those_of_the_task():
    for line in PAGE.splitlines():
        if line.startswith("| [`"):
            names, modalities = line.split(" | ")[:2]
            for task in re.findall(r"`(\w+)`", names):
                known = registry.load(registry.TASKS, task).known_modalities
                assert set(modalities.split(", ")) == set(known or ["any"]), task
