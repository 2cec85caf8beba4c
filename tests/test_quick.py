"""``make quick`` knows where the laws of every part stand."""

from pathlib import Path

import pytest
import quick

import cggm_med

ROOMS = [path for path in Path(cggm_med.__file__).parent.iterdir() if path.name[0] != "_" or path.suffix == ".py"]


@pytest.mark.parametrize(
    "room", [path.name for path in ROOMS if path.name not in ("py.typed", "vendored", "pipelines")]
)
def test_every_room_has_laws(room):
    found = quick.laws(f"cggm_med/{room}")
    assert found
    assert all(path.exists() for path in found)
    assert quick.laws(room) == found


def test_what_changed_names_its_room():
    def names(part):
        return {path.relative_to(quick.TESTS).as_posix() for path in quick.laws(part)}

    assert names("cggm_med/data/volumes/io.py") == {"data/volumes"}
    assert names("cggm_med/config.py") == {"test_config.py"}
    assert names("tasks/cggm_med_tasks/brats2021.py") == {"tasks"}
    assert names("tests/e2e/test_view.py") == {"e2e/test_view.py"}
    assert names("tests/e2e/test_gone" + ".py") == set()
    assert "comparison/test_comparison.py" in names("tests/helpers/finished.py")
    assert names("docs/tasks.md") == names("README.md") == {"test_docs.py"}
    assert names("pyproject.toml") == set()


def test_an_unknown_part_is_named():
    with pytest.raises(SystemExit, match=r"no tests of estrategies; expected a file, or a part such as .*strategies"):
        quick.main(["strategies", "estrategies"])
