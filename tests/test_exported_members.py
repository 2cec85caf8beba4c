"""The public names are exactly those that ``__all__`` says, and each can be imported."""

import subprocess
import sys

import pytest

import cggm_med


def test_every_exported_name_exists_and_is_listed_once():
    assert len(set(cggm_med.__all__)) == len(cggm_med.__all__)
    for name in cggm_med.__all__:
        assert getattr(cggm_med, name).__name__ == name


def test_nothing_else_is_public():
    modules = {"typing", "errors", "config", "models", "losses", "strategies", "task", "segmentation", "report", "run"}
    public = {name for name in vars(cggm_med) if not name.startswith("_")} - modules
    imported = {name for name in public if type(vars(cggm_med)[name]).__name__ == "module"}
    assert public - imported <= {"annotations", "Any", *cggm_med.__all__}
    assert dir(cggm_med) == sorted(cggm_med.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        cggm_med.nothing_of_that_name  # noqa: B018


def test_importing_the_package_is_light():
    code = "import sys, cggm_med; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
