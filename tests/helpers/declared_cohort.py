"""A small cohort of declared data, as files, and settings under which a run on it takes a second."""

import json

import numpy as np

from helpers.nifti import write

AFFINE = np.diag([2.0, 2.0, 6.0, 1.0])
SHAPE = (20, 18, 8)
SMALL = {
    "data.patch_size": "[8,8,8]",
    "data.workers": "0",
    "data.validation": "0.2",
    "data.test": "0.2",
    "model.channels": "[4,8]",
    "train.epochs": "2",
    "train.steps_per_epoch": "3",
    "train.validate_every": "1",
    "train.log_every": "1",
}


def cohort(folder, numbers=(1, 2, 9), names=("flair", "t1"), cases=6, *, in_parts=False, **declared):
    """A body with a lesion whose rim has another number, and voxels at its side that nobody annotated.

    With ``in_parts``, each of the declared regions has a file of its own.
    """
    entries = []
    for i in range(cases):
        random = np.random.default_rng(i)
        label = np.zeros(SHAPE, np.uint16)
        x, y = 5 + random.integers(5), 5 + random.integers(5)
        label[x : x + 5, y : y + 5, 2:6] = numbers[0]
        label[x + 1 : x + 4, y + 1 : y + 4, 3:5] = numbers[1]
        if len(numbers) > 2:
            label[2:4, 2:16, 1:7] = numbers[2]
        parts = declared["regions"] if in_parts else {}
        masks = {region: np.isin(label, held).astype(np.uint8) for region, held in parts.items()}
        files = {region: str(write(folder / region / f"p{i}.nii.gz", of, AFFINE)) for region, of in masks.items()}
        whole = {} if files else {"label": str(write(folder / "labels" / f"p{i}.nii.gz", label, AFFINE))}
        entry = {"id": f"p{i}", **({"label": files} if files else whole)}
        for k, name in enumerate(names):
            image = np.zeros(SHAPE, np.float32)
            image[2:18, 2:16, 1:7] = random.normal(10, 1, (16, 14, 6))
            image += (label > 0) * (8 - 10 * k) + (label == numbers[1]) * 6
            entry[name] = str(write(folder / name / f"p{i}.nii.gz", image * (image != 0), AFFINE))
        entries.append(entry)
    content = {
        "name": "lesions",
        "modalities": dict.fromkeys(names, "mri"),
        "labels": {str(numbers[0]): "rim", str(numbers[1]): "core"},
        **({"ignore": numbers[2]} if len(numbers) > 2 else {}),
        "training": entries,
        **declared,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder / "dataset.json"
