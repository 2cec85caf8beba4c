"""The public names: frozen in a list, importable, and typed for editors and type checkers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

import cggm_med

ROOT = Path(__file__).parents[1]
# Who adds a public name adds it to cggm_med/__init__.pyi, to this list and to CHANGELOG.md; who takes one away breaks
# somebody's code, so that stands in CHANGELOG.md under "Removed" with what to write instead.
PUBLIC = (ROOT / "tests" / "public_names.txt").read_text().split()
USER = """
from cggm_med import Batch, CGGMConfig, MultimodalModel, residual_sums
from cggm_med import NoSuchName

reveal_type(CGGMConfig("cggm").rho)
reveal_type(residual_sums(1.0))

def predict(model: MultimodalModel, batch: Batch) -> None:
    reveal_type(model(batch.inputs))

CGGMConfig("cggm", rho="large")
"""


def test_the_public_names_are_those_of_the_list():
    assert sorted(cggm_med.__all__) == PUBLIC


@pytest.mark.slow  # unless mypy has its cache of torch from "make check"
def test_type_checkers_see_types(tmp_path, monkeypatch):
    (tmp_path / "user.py").write_text(USER)
    monkeypatch.chdir(ROOT)
    report, errors, _ = api.run(["--no-error-summary", "--hide-error-context", str(tmp_path / "user.py")])
    assert errors == ""
    lines = [re.sub(r"^.*user\.py:(\d+): ", r"\1 ", line) for line in report.splitlines()]
    assert lines == [
        '3 error: Module "cggm_med" has no attribute "NoSuchName"  [attr-defined]',
        '5 note: Revealed type is "float"',
        '6 note: Revealed type is "def (torch._tensor.Tensor, torch._tensor.Tensor) -> torch._tensor.Tensor"',
        '9 note: Revealed type is "torch._tensor.Tensor"',
        '11 error: Argument "rho" to "CGGMConfig" has incompatible type "str"; expected "float"  [arg-type]',
    ]


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
