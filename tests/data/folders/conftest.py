"""Writing the files of a layout: volumes of a few voxels, and a list."""

import gzip
import json

import numpy as np
import pytest

from cggm_med.data.volumes.io import nifti_bytes


@pytest.fixture
def files(tmp_path):
    """Write volumes below a folder, and what a list says into ``dataset.json`` or another file of it."""

    def write(*paths, content=None, name="dataset.json", folder=".", voxels=None, affine=None):
        volume = np.zeros((3, 2, 2), np.int16) if voxels is None else np.asarray(voxels)
        image = nifti_bytes(volume, np.eye(4) if affine is None else affine)
        for path in paths:
            file = tmp_path / folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(image, mtime=0) if file.suffix == ".gz" else image)
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        return tmp_path / folder

    return write
