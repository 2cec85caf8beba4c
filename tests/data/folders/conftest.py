"""Writing the files of a layout: volumes of a few voxels, and a list."""

import gzip
import json

import numpy as np
import pytest
import SimpleITK

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


@pytest.fixture
def tree(tmp_path):
    """Write a folder of scans from paths alone: ``L:`` before a path makes a label map, ``4:`` a series of volumes.

    No two images are alike.
    """
    rng = np.random.default_rng(0)
    image = rng.normal(300, 90, (6, 5, 4)).astype(np.int16)
    label = np.zeros((6, 5, 4), np.uint8)
    label[2:4, 2:4, 1:3], label[2, 2, 1] = 1, 2
    contents = {"": image, "L": label, "4": np.stack([image] * 3, axis=-1)}

    def write(*paths):
        for number, path in enumerate(paths):
            contents[""] = image + number
            mark, _, name = path.rpartition(":")
            file = tmp_path / "scans" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if name.lower().endswith((".nii", ".nii.gz")):
                content = nifti_bytes(contents[mark], np.eye(4))
                file.write_bytes(gzip.compress(content, mtime=0) if name.lower().endswith(".gz") else content)
            else:
                SimpleITK.WriteImage(SimpleITK.GetImageFromArray(contents[mark].transpose()), str(file))
        return tmp_path / "scans"

    return write
