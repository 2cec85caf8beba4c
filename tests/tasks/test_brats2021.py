"""Task brats2021 reads adult gliomas; children, meningiomas and metastases under the same file names are refused."""

import pytest

from cggm_med.errors import DataError
from cggm_med.runs.settings import instantiate, make_config

ENDS = ("t2f", "t1n", "t1c", "t2w", "seg")


def found(folder, ids, **task):
    for id in ids:
        for end in ENDS:
            (folder / f"{id}-{end}.nii.gz").touch()
    made, _ = instantiate(make_config("brats2021", [{"data": {"path": str(folder)}, "task": task}], preset="tiny"))
    return made.find(lambda line: None)


@pytest.mark.parametrize("challenge", ["PED", "MEN", "MET"])
def test_other_challenges_are_refused_unless_their_numbers_are_stated(tmp_path, challenge):
    ids = ["BraTS-GLI-00001-000", f"BraTS-{challenge}-00002-000"]
    with pytest.raises(DataError, match=rf"1 of 2 cases are of another challenge.*: BraTS-{challenge}-00002-000\."):
        found(tmp_path, ids)
    assert found(tmp_path, ids, labels="brats2023") == tuple(ids)


def test_adult_gliomas_and_names_of_nobody_are_read(tmp_path):
    ids = ("BraTS-GLI-00001-000", "BraTS-SSA-00001-000", "MEN-7")
    assert found(tmp_path, ids) == ids
