"""Options of ``train`` that stand for settings, and a rehearsal that leaves nothing behind."""

from importlib.metadata import version

import pytest
from helpers.command_line import command, set_options
from helpers.small_runs import small_settings

from cggm_med.cli import app


@pytest.fixture
def rehearsal(monkeypatch, phantom, cache, tmp_path, capsys):
    """``train --dry-run`` of the small run, with more words; returns what it prints, and makes no run folder."""

    def rehearse(*words, code=0):
        flags = set_options(small_settings(phantom, cache))
        out = tmp_path / "run"
        command(monkeypatch, "train", "--preset", "tiny", "--dry-run", "--out", out, *flags, *words, code=code)
        assert not out.exists()
        said = capsys.readouterr()
        return said.err if code else said.out

    return rehearse


def test_a_rehearsal_says_what_would_be_trained_and_leaves_nothing_behind(rehearsal, tmp_path):
    said = rehearsal("--strategy", "joint", "--seed", "3", "--device", "cpu")
    assert "would train brats2021 with joint on cpu: 4 training, 1 validation, 1 test cases" in said
    assert f"run folder {tmp_path / 'run'}, which was not made" in said
    for row in ("patch in voxels", "16 x 16 x 16", "expected time"):
        assert row in said


def test_a_rehearsal_refuses_what_training_refuses(rehearsal, tmp_path):
    assert "no strategy 'joynt'. Did you mean 'joint'?" in rehearsal("--strategy", "joynt", code=1)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert f"{full} already exists; choose another folder with --out" in rehearsal("--out", full, code=1)


def test_an_option_and_the_setting_it_stands_for_exclude_each_other(rehearsal):
    message = " ".join(rehearsal("--epochs", "2", code=2).split())
    assert "--epochs 2 and --set train.epochs=3 are the same setting; give one of them" in message


def test_every_command_tells_version_and_help(monkeypatch, capsys):
    command(monkeypatch, "--version")
    assert capsys.readouterr().out == f"cggm-med {version('cggm-med')}\n"
    command(monkeypatch, "predict", "-h")
    short = capsys.readouterr().out
    command(monkeypatch, "predict", "--help")
    assert short == capsys.readouterr().out
    assert "--accept" in short


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("train --task br", ["brats2021"]),
        ("compare --task segm", ["segmentation"]),
        ("train --strategy uniform_", ["uniform_full"]),
        ("train --log tens", ["tensorboard"]),
        ("trai", ["train"]),
    ],
)
def test_a_shell_completes_commands_and_names_of_plugins(monkeypatch, capsys, words, names):
    monkeypatch.setenv("_CGGM_MED_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"cggm-med {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    monkeypatch.setattr("sys.argv", ["cggm-med"])
    with pytest.raises(SystemExit) as ended:
        app.app(prog_name="cggm-med")
    assert (ended.value.code, capsys.readouterr().out.split()) == (0, names)
