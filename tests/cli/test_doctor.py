"""``doctor``: what is installed, what is missing or too old, and the command that fixes it."""

import importlib.metadata

import pytest

from cggm_med.cli.doctor import examine

REQUIRES = [
    "torch>=2.10,<2.14",
    "monai[nibabel]>=1.6.1",
    "h5py>=3.11",
    "pydicom>=3; extra == 'dicom'",
    "ruff; extra == 'dev'",
]


@pytest.fixture
def installed(monkeypatch):
    """Versions of the packages that are installed, to be changed."""
    versions = {"cggm-med": "0.1.0", "torch": "2.12.1+cu130", "monai": "1.6.1", "h5py": "3.12", "pydicom": "3.1"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES)
    return versions


def checks():
    return {check.name: check for check in examine()}


def test_what_is_as_it_should_be(installed):
    found = checks()
    assert [found[name].state for name in installed] == list(installed.values())
    assert all(check.ok for check in found.values())
    assert "ruff" not in found


def test_a_package_that_is_missing(installed):
    del installed["h5py"]
    found = checks()["h5py"]
    assert (found.ok, found.state, found.fix) == (False, "not installed", "pip install 'h5py>=3.11'")


@pytest.mark.parametrize("version", ["2.9.1", "2.14.0"])
def test_a_version_that_was_not_asked_for(installed, version):
    installed["torch"] = version
    found = checks()["torch"]
    assert (found.ok, found.state) == (False, f"{version}, expected <2.14,>=2.10")
    assert found.fix == "pip install 'torch<2.14,>=2.10'"


def test_an_extra_may_be_absent(installed):
    del installed["pydicom"]
    found = checks()["pydicom"]
    assert (found.ok, found.fix) == (True, "pip install 'cggm-med[dicom]'")
    assert "'dicom'" in found.state
