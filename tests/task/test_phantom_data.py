"""The phantom of a run: its version is stored, its settings name its folder, and another version is refused."""

from pathlib import Path

import pytest

from cggm_med import registry
from cggm_med.config import to_tree
from cggm_med.data.volumes.phantom.cases import VERSION
from cggm_med.errors import ConfigError
from cggm_med.runs.settings import completed, make_config
from cggm_med.task import phantom_data

TASKS = ("brats2021", "segmentation")


@pytest.fixture
def written(monkeypatch):
    """What is asked of the generator, which writes nothing."""
    asked = []
    monkeypatch.setattr(phantom_data, "write_phantom", lambda folder, **asks: asked.append(asks))
    return asked


def folder_of(name, cache, **data):
    config = make_config(name, [{"data": data}])
    return registry.load(registry.TASKS, name)(config).embedded_data(cache, lambda line: None)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_stores_the_version_and_each_setting_has_its_own_folder(name, written, tmp_path):
    assert make_config(name, []).data.phantom_version == VERSION
    assert make_config("brats2021", [{"data": {"path": "scans"}}]).data.phantom_version is None
    changes = ({}, {"phantom_seed": 1}, {"phantom_cases": 4}, {"phantom": "imbalanced"})
    changes = (*changes, *({"phantom_scanners": {m: {"noise": 2}}} for m in ("t1", "t2")))
    folders = [folder_of(name, tmp_path, **change) for change in changes]
    assert len(set(folders)) == len(folders) == len(written)
    assert folder_of(name, tmp_path) == folders[0]
    assert len(written) == len(folders)  # not written again
    assert [asks["seed"] for asks in written[:2]] == [0, 1]
    assert written[-1]["scanners"]["t2"].noise == 2


@pytest.mark.parametrize("name", TASKS)
def test_a_run_of_an_earlier_phantom_keeps_it_or_is_refused_in_one_line(name, written, tmp_path):
    stored = to_tree(make_config(name, []))
    for key in ("phantom", "phantom_scanners", "phantom_version"):
        del stored["data"][key]
    config = make_config(name, [stored], stored=True)
    assert completed(stored)["data"]["phantom_version"] is None
    task = registry.load(registry.TASKS, name)(config)
    with pytest.raises(ConfigError, match=f"version 1 of the phantom and .* is gone, here version {VERSION} is drawn"):
        task.embedded_data(tmp_path, lambda line: None)
    assert not written
    kept = tmp_path / "phantom" / f"{name}-v1-seed0-24cases"
    kept.mkdir(parents=True)
    assert task.embedded_data(tmp_path, lambda line: None) == Path(kept)


def test_scanners_are_settings_that_are_checked():
    with pytest.raises(ConfigError, match="data.phantom_scanners.t1.noise is -1.0, expected at least 0"):
        make_config("brats2021", [{"data": {"phantom_scanners": {"t1": {"noise": -1}}}}])
