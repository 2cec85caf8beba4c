"""The commands hand nnU-Net its environment and arguments, and hold back what they do not understand."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from cggm_med.cli import app as cli
from cggm_med.nnunet import commands
from cggm_med.nnunet.settings import VARIABLE

ENTRIES = {
    "plan": "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints.plan_and_preprocess_entry",
    "train": "nnunetv2.run.run_training.run_training_entry",
    "predict": "nnunetv2.inference.predict_from_raw_data.predict_entry_point",
}
VARIABLES = (*commands.FOLDERS, commands.EXTERNAL, VARIABLE)


@pytest.fixture
def called(monkeypatch, tmp_path):
    """Runs a command whose entry point only takes down how it was called."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a command sets is undone afterwards
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    seen = {}

    def note():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        seen.update(argv=sys.argv, **{name: os.environ.get(name) for name in VARIABLES})
        seen["predictor"] = nnUNetPredictor

    for entry in ENTRIES.values():
        monkeypatch.setattr(entry, note)

    def run(*words):
        argv = ["cggm-med", "nnunet", *map(str, words)]
        monkeypatch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert sys.argv is argv
        return end.value.code or seen

    return run


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, cggm_med.cli.app; sys.exit(bool({'nnunetv2', 'torch', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_arguments_are_passed_on_as_they_are(called):
    words = ["-d", "900", "-c", "3d_fullres", "-np", "1", "--verify_dataset_integrity"]
    assert called("plan", *words)["argv"] == ["nnUNetv2_plan_and_preprocess", *words]
    words = ["900", "3d_fullres", "0", "-tr", "nnUNetTrainer_5epochs", "-device", "cpu", "--npz", "--c"]
    assert called("train", *words)["argv"] == ["nnUNetv2_train", *words]
    assert called("train", "-h")["argv"] == ["nnUNetv2_train", "-h"]
    words = ["-i", "in", "-o", "out", "-d", "900", "-f", "0", "1", "--disable_tta"]
    assert called("predict", *words)["argv"] == ["nnUNetv2_predict", *words]


def test_what_is_absent_reaches_the_predictor_that_nnunet_makes(called):
    seen = called("predict", "-d", "900", "--absent", "t1ce,t2", "-f", "0", "--allow-missing")
    assert seen["argv"] == ["nnUNetv2_predict", "-d", "900", "-f", "0"]
    asked = seen["predictor"].asked
    assert (asked.absent, asked.allow_missing) == (["t1ce", "t2"], True)
    assert not hasattr(called("train", "900")["predictor"], "asked")  # nnU-Net has its own back


def test_folders_and_trainers_are_set(called, tmp_path, monkeypatch):
    seen = called("train", "900", "--folder", tmp_path / "here")
    assert [seen[name] for name in commands.FOLDERS] == [
        str(tmp_path / "here" / name) for name in ("raw", "preprocessed", "results")
    ]
    external = Path(seen[commands.EXTERNAL])
    assert [file.name for file in external.glob("*.py")] == ["cggm_med_trainers.py"]
    assert seen[VARIABLE] is None

    for name in commands.FOLDERS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("nnUNet_raw", "/their/raw")
    monkeypatch.setenv(commands.EXTERNAL, f"/theirs{os.pathsep}{external}")
    seen = called("predict")
    assert seen["nnUNet_raw"] == "/their/raw"
    assert seen["nnUNet_results"] == str(tmp_path / "nnunet" / "results")
    assert seen[commands.EXTERNAL] == f"/theirs{os.pathsep}{external}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what nnU-Net imports while it searches trainers
@pytest.mark.parametrize("asked", ["__file__", "__path__"])
def test_a_module_that_loads_another_when_looked_at_does_not_stop_nnunet(asked, monkeypatch, tmp_path):
    """As ``transformers.tokenization_utils`` does; here for all modules that nnU-Net's search walks over."""
    from nnunetv2.utilities.find_class_by_name import temporarily_cleanup_imports_from_path

    class Lazy(types.ModuleType):
        def __getattr__(self, name):
            if name == asked:
                sys.modules.setdefault("loaded_by_lazy", types.ModuleType("loaded_by_lazy"))
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    monkeypatch.setattr(commands, "folders_of", lambda folder: {})
    monkeypatch.setenv(commands.EXTERNAL, "")
    try:
        with commands._nnunet("command", [], None), temporarily_cleanup_imports_from_path(str(tmp_path)):
            assert "loaded_by_lazy" in sys.modules
    finally:
        sys.modules.pop("loaded_by_lazy", None)


def test_settings_reach_our_trainers_only(called, capsys):
    rho = ["--set", "strategy.rho=1.3"]
    seen = called("train", "900", "3d_fullres", "0", "-tr", "nnUNetTrainerCGGM", *rho)
    assert seen[VARIABLE] == '{"strategy": {"rho": 1.3}}'
    capsys.readouterr()
    for trainer, text in [
        ("nnUNetTrainer_5epochs", "no trainer nnUNetTrainer_5epochs that takes settings"),
        ("nnUNetTrainerOGMGE", "no configuration key 'strategy.rho'"),
    ]:
        assert called("train", "900", "3d_fullres", "0", "-tr", trainer, *rho) == 1
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1


def test_a_task_that_does_not_segment_is_refused(called, capsys):
    assert called("export", "--task", "avdigits") == 1
    assert "task 'avdigits' does not segment" in capsys.readouterr().err


def test_export_says_what_comes_next(called, phantom, tmp_path, capsys):
    called("export", "--data", phantom, "--id", "7", "--name", "tumour", "--set", "task.modalities=[t1ce,flair]")
    assert "next: cggm-med nnunet plan -d 7 -c 3d_fullres" in capsys.readouterr().out
    assert (tmp_path / "nnunet" / "raw" / "Dataset007_tumour" / "dataset.json").exists()
