"""The doors for an encoder and a fusion: the examples of the pages, in a package that is installed with pip."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from helpers import packages
from helpers.command_line import command
from helpers.small_runs import trained_run

from cggm_med import registry
from cggm_med.testing import check_encoder, check_fusion

PACKAGE = Path(__file__).parent
PAGES = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package in a folder of its own, on the path while this module is tested."""
    target = tmp_path_factory.mktemp("installed")
    packages.installed(PACKAGE, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(target)
        yield
    for module in [name for name in sys.modules if name.startswith("plugin_networks")]:
        del sys.modules[module]


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory, phantom, cache):
    """Two steps with both, through the command line."""
    short = {"train__epochs": "1", "train__steps_per_epoch": "2", "train__checkpoint_every": "2"}
    folder = tmp_path_factory.mktemp("trained") / "run"
    return trained_run(folder, phantom, cache, **short, model__encoder="residual", model__fusion="attention")


@pytest.mark.parametrize(("page", "module"), [("add-an-encoder", "residual"), ("add-a-fusion", "attention")])
def test_the_page_shows_what_is_tested(page, module):
    text = (PAGES / f"{page}.md").read_text()
    assert f"```python\n{(PACKAGE / 'plugin_networks' / f'{module}.py').read_text()}```\n" in text
    (registration,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    assert registration.replace("my_networks", "plugin_networks") in (PACKAGE / "pyproject.toml").read_text()


def test_they_keep_the_laws(installed):
    check_encoder("residual")
    check_fusion("attention")


def test_they_train_and_are_balanced(run):
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert (model["encoder"], model["fusion"]) == ("residual", "attention")
    assert json.loads((run / "results.json").read_text())["headline"]["Dice mean"] is not None
    covered = json.loads((run / "coverage.json").read_text())
    assert "encoders.flair.scales.0.conv1.conv.weight" in covered["modalities"]["flair"]
    assert "fusion.scores.flair.1.weight" in covered["modalities"]["flair"]
    assert not [name for name in covered["shared"] if name.startswith("fusion")]


def test_they_predict_with_a_modality_missing(run, phantom, tmp_path, monkeypatch):
    case = sorted(path for path in Path(phantom).iterdir() if path.is_dir())[0]
    images = [word for m in ("flair", "t1ce") for word in (f"--{m}", next(case.glob(f"*_{m}.nii.gz")))]
    command(monkeypatch, "predict", run, *images, "-o", tmp_path / "mask.nii.gz")
    assert (tmp_path / "mask.nii.gz").exists()


def test_a_bundle_of_them_is_refused_in_one_line(run, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "bundle", "export", run, "-o", tmp_path / "bundle", code=1)
    error = capsys.readouterr().err
    assert "has model.encoder=residual and model.fusion=attention; a bundle carries the source of unet and " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_without_the_package_the_run_says_what_is_missing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "installed" not in path])
    assert "residual" not in registry.names(registry.ENCODERS)
    command(monkeypatch, "evaluate", run, code=1)
    assert "UnknownName: no encoder 'residual'. Known: unet." in capsys.readouterr().err
