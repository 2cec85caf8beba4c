"""A small case of two modalities as files, with a label."""

import nibabel as nib
import numpy as np

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.volumes.labels import LabelConvention

CONVENTION = LabelConvention(
    name="test", meanings={1: "core", 2: "oedema"}, regions={"WT": (1, 2), "TC": (1,)}, paint={"WT": 2, "TC": 1}
)

LPS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 29], [0, 0, 1, 0], [0, 0, 0, 1]])

# Axes in another order (right, superior, anterior) and voxels of three sizes.
RSA = np.array([[0.8, 0, 0, 5], [0, 0, 2.0, -7], [0, 1.5, 0, 9], [0, 0, 0, 1]])


def write_case(folder, affine=LPS, background=0.0, seed=0, name="case", shape=(30, 28, 26)):
    random = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    brain = np.zeros(shape, bool)
    brain[6:22, 5:24, 4:20] = True
    labels = np.zeros(shape, np.uint8)
    labels[10:16, 9:15, 8:14] = 2
    labels[11:14, 10:13, 9:12] = 1
    images = {}
    for modality, gain in (("flair", 300.0), ("t1ce", 40.0)):
        data = np.where(brain, gain * (1 + random.random(shape)), background).astype(np.float32)
        nib.save(nib.Nifti1Image(data, affine), folder / f"{name}_{modality}.nii.gz")
        images[modality] = ImageFile(folder / f"{name}_{modality}.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), folder / f"{name}_seg.nii.gz")
    return Case(name, name, images, folder / f"{name}_seg.nii.gz")
