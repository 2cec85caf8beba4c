"""What other programs rely on: exit codes, and the values that a command writes with ``--json``."""

import json
import re
import signal
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from helpers.command_line import command

from cggm_med.cli import doctor
from cggm_med.cli.app import app, main
from cggm_med.cli.json_output import require_json, write_shown
from cggm_med.errors import OutputError
from cggm_med.inference import follow_up
from cggm_med.runs import train

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "command-line.md").read_text()
CODES, JSON = PAGE.split("## `--json FILE`")


def raising(error):
    def work(*words, **options):
        raise error

    return work


@pytest.fixture
def change(monkeypatch, tmp_path):
    """Call ``change`` while something else does its work."""
    (tmp_path / "a").mkdir()

    def call(work, code):
        monkeypatch.setattr(follow_up, "follow", work)
        command(monkeypatch, "change", tmp_path / "a", tmp_path / "a", code=code)

    return call


def test_the_page_names_these_codes():
    assert re.findall(r"^\| (\d+) \|", CODES, re.M) == ["0", "1", "2", "75", "130", "143"]


def test_0_1_and_2(monkeypatch, tmp_path, change, capsys):
    command(monkeypatch, "--version", code=0)
    command(monkeypatch, "change", tmp_path / "no", tmp_path / "no", code=1)
    assert capsys.readouterr().err.startswith("DataError: ")
    command(monkeypatch, "change", "--no-such-option", code=2)
    command(monkeypatch, "change", "a", "b", "--same", "few", code=2)
    # One case that failed, of two.
    found = {"cases": [{"case": "a", "regions": [], "lesions": []}], "failed": {"b": "why"}}
    change(lambda *words, **options: found, 1)
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Check("torch", False, "not installed")])
    command(monkeypatch, "doctor", code=1)


def test_an_error_that_nobody_foresaw_is_one_line_and_a_file_to_report(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "examine", raising(ValueError("two\nlines")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["cggm-med", "doctor"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    (file,) = tmp_path.iterdir()
    assert said == (
        "unforeseen ValueError: two lines; this is a fault of cggm-med or of a plug-in; report it with "
        f"{file} (which names your files and paths), or look with --debug\n"
    )
    report = file.read_text()
    assert f"cggm-med {version('cggm-med')}" in report
    assert "command: cggm-med doctor" in report
    assert report.rstrip().endswith("two\nlines")
    assert file.stat().st_mode & 0o077 == 0
    monkeypatch.setattr("sys.argv", ["cggm-med", "doctor", "--debug"])
    with pytest.raises(ValueError, match="two"):
        main()


def test_130_and_143(monkeypatch, tmp_path, change, capsys):
    change(raising(KeyboardInterrupt()), 130)
    # Elsewhere SIGTERM keeps its usual meaning: the system ends the process.
    seen = []

    def work(*words, **options):
        seen.append(signal.getsignal(signal.SIGTERM))
        raise typer.Exit

    change(work, 0)
    assert seen == [signal.SIG_DFL]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        monkeypatch.setattr(train, "start", lambda *words, number=number: signal.raise_signal(number))
        command(monkeypatch, "train", "--out", tmp_path / "run", "--device", "cpu", code=code)
        assert "stopped" in capsys.readouterr().err


def test_every_command_with_a_table_writes_its_values_and_the_page_says_what():
    """The others show none: they write files of their own."""
    commands = typer.main.get_command(app).commands
    with_json = {name for name, of in commands.items() if any("--json" in option.opts for option in of.params)}
    assert re.findall(r"^\| `(\w+)` \|", JSON, re.M) == sorted(with_json)
    without = {"bundle", "cohort", "ensemble", "nnunet", "report", "share", "view", "new-task", "new-strategy"}
    assert set(commands) == with_json | without


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("strategies", "strategies", {"name": "joint", "package": f"cggm-med {version('cggm-med')}"}),
        ("doctor", "checks", {"name": "cggm-med", "ok": True, "state": version("cggm-med"), "fix": ""}),
    ],
)
def test_lists_are_written_as_they_are_shown(name, key, expected, tmp_path, monkeypatch, capsys):
    command(monkeypatch, name, "--json", tmp_path / "shown.json")
    rows = json.loads((tmp_path / "shown.json").read_text())[key]
    shown = capsys.readouterr().out
    assert any(expected.items() <= row.items() for row in rows)
    assert all(row["name"] in shown and row.get("about", row.get("state")) in shown for row in rows)


def test_only_a_file_of_the_same_command_is_replaced(tmp_path, monkeypatch):
    file, scan = tmp_path / "shown.json", tmp_path / "scan.nii"
    require_json(None, "plan")
    for command_, values in (("plan", {"tables": []}), ("plan", {"tables": [1]})):
        require_json(file, command_)
        write_shown(file, command_, values)
    assert json.loads(file.read_text())["tables"] == [1]
    assert set(json.loads(file.read_text())) == {"software", "command", "tables"}
    with pytest.raises(OutputError, match="this command did not write it"):
        require_json(file, "check")
    for content in ("{}", "[]", "not JSON"):
        file.write_text(content)
        with pytest.raises(OutputError, match="this command did not write it"):
            require_json(file, "plan")
    scan.write_bytes(b"a scan")
    with pytest.raises(OutputError, match="is read as well as written"):
        require_json(scan, "plan", [scan])
    # Of several processes, only the first writes.
    monkeypatch.setenv("RANK", "1")
    write_shown(tmp_path / "other.json", "plan", {})
    assert not (tmp_path / "other.json").exists()


def test_ranks_by_hand(tmp_path, monkeypatch):
    """a is first twice, b once: mean ranks 4/3 and 5/3 of two strategies, too few for Friedman's test."""
    for number, (a, b) in enumerate(((0.8, 0.7), (0.6, 0.5), (0.2, 0.4))):
        (tmp_path / str(number)).mkdir()
        rows = [{"score": "dice", "name": name, "mean": mean} for name, mean in (("b", b), ("a", a))]
        content = {"task": "t", "chosen_by": "dice", "lower_is_better": False, "rows": rows}
        (tmp_path / str(number) / "comparison.json").write_text(json.dumps(content))
    folders = [tmp_path / str(number) for number in range(3)]
    command(monkeypatch, "rank", *folders, "--json", tmp_path / "rank.json")
    found = json.loads((tmp_path / "rank.json").read_text())
    assert [(row["strategy"], row["mean_rank"]) for row in found["rows"]] == [
        ("a", pytest.approx(4 / 3)),
        ("b", pytest.approx(5 / 3)),
    ]
    assert found["rows"][0]["comparisons"]["t (2)"] == {"rank": 2, "mean": 0.2}
    assert found["friedman_p"] is None


@pytest.mark.parametrize("words", [["--json", "-"], ["--json=-"]])
def test_a_hyphen_gives_stdout_to_the_values_alone(words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "strategies")
    plain = capsys.readouterr()
    command(monkeypatch, "strategies", *words)
    said = capsys.readouterr()
    assert "cggm" in {strategy["name"] for strategy in json.loads(said.out)["strategies"]}
    assert said.err == plain.out + plain.err
    assert not list(tmp_path.iterdir())
