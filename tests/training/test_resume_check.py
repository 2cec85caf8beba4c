"""The resume check: settings that change what is learned and changed data are refused, by name; others may change."""

import pytest

from cggm_med.errors import CheckpointError
from cggm_med.training.resume_check import require_same_run

CONFIG = {"optim": {"lr": 0.1}, "data": {"path": "/a", "workers": 2}}
DATA = {"case": "abc"}


def test_other_settings_are_refused_by_name(tmp_path):
    same = {"optim": {"lr": 0.1}, "data": {"path": "/b", "workers": 9}}  # where it computes may change
    require_same_run(tmp_path, CONFIG, same, DATA, DATA)
    other = {"optim": {"lr": 0.2}, "data": {"path": "/a", "workers": 2}}
    with pytest.raises(CheckpointError, match=r"optim\.lr: 0\.1 != 0\.2"):
        require_same_run(tmp_path, CONFIG, other, DATA, DATA)


def test_changed_scans_are_refused_by_case(tmp_path):
    with pytest.raises(CheckpointError, match="other data; what differs: case"):
        require_same_run(tmp_path, CONFIG, CONFIG, DATA, {"case": "xyz"})
