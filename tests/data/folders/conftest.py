"""Writing the files of a layout without voxels: the readers of lists open none."""

import json

import pytest


@pytest.fixture
def files(tmp_path):
    """Write empty files below a folder, and what a list says into ``dataset.json`` or another file of it."""

    def write(*paths, content=None, name="dataset.json", folder="."):
        for path in paths:
            file = tmp_path / folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        return tmp_path / folder

    return write
