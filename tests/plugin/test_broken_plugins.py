"""Plug-ins that are broken in any way: each says so in one line, with its package, and harms no other."""

import json
import sys

import pytest
from helpers.command_line import command
from helpers.packages import write_metadata

from cggm_med import MissingExtra, PluginError, registry
from cggm_med.cli import app as cli

# Entry points of packages that are installed together, by package; "name": "module:object".
PACKAGES = {
    "without-dependency": {"imports": "np_imports:Thing"},
    "with-an-exit": {"exits": "np_exits:Thing"},
    "with-a-slip": {"slips": "np_slips:Thing"},
    "without-object": {"absent": "np_tasks:Nothing"},
    "without-reference": {"reference": "no reference:: at all"},
    "with-a-function": {"function": "np_tasks:function"},
    "with-a-stranger": {"stranger": "np_tasks:Stranger"},
    "with-a-strategy": {"confused": "cggm_med.strategies.joint:Joint"},
    "half-a-task": {"half": "np_tasks:Half"},
    "talkative": {"talks": "np_talks:Talks"},
    "one": {"twice": "np_talks:Talks"},
    "other": {"twice": "np_tasks:Half"},
    "new-name": {"renamed": "np_talks:Talks"},
    "old-name": {"renamed": "np_talks:Talks"},
}
MODULES = {
    "np_imports": "import a_package_that_nobody_has",
    "np_exits": "import sys\nsys.exit('not today')",
    "np_slips": "def f(:\n    pass",
    "np_tasks": """
from cggm_med import ClassificationTask

def function():
    pass

class Stranger:
    pass

class Half(ClassificationTask):
    known_modalities = ("a", "b")

    def read(self, path, say):
        pass
""",
    "np_talks": """
print("hello from a plug-in")
from cggm_med_tasks.affect.mosi import MOSI

class Talks(MOSI):
    description = "a task that talks"
""",
}
# What is said of each, besides its name and "--task".
SAID = {
    "imports": ["without-dependency 1.5", "np_imports:Thing", "ModuleNotFoundError: No module named 'a_package_that"],
    "exits": ["with-an-exit 1.5", "SystemExit: not today"],
    "slips": ["with-a-slip 1.5", "SyntaxError: ", "np_slips.py, line 1"],
    "absent": ["without-object 1.5", "AttributeError: module 'np_tasks' has no attribute 'Nothing'"],
    "reference": ["without-reference 1.5", "no reference:: at all", "AttributeError"],
    "function": ["with-a-function 1.5", "is a function, expected a subclass of cggm_med.Task"],
    "stranger": ["with-a-stranger 1.5", "is class Stranger, expected a subclass of cggm_med.Task"],
    "confused": ["with-a-strategy 1.5", "is class Joint, expected a subclass of cggm_med.Task"],
    "half": ["half-a-task 1.5", "does not define generate, model, unimodal_heads, ModelConfig"],
    "twice": ["one 1.5 (np_talks:Talks) and other 1.5 (np_tasks:Half)", "uninstall or rename"],
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs the packages by what an installer leaves behind: metadata and modules in a folder on the path."""
    for package, entries in PACKAGES.items():
        write_metadata(tmp_path, package, "1.5", registry.TASKS, entries)
    for module, code in MODULES.items():
        (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for module in MODULES:
        sys.modules.pop(module, None)


def listing(monkeypatch, capsys, kind="tasks"):
    command(monkeypatch, kind)
    captured = capsys.readouterr()
    return {line.split()[0]: line for line in captured.out.splitlines()}, captured


def test_each_is_listed_with_its_error_and_the_others_as_without_them(monkeypatch, capsys, request):
    before, _ = listing(monkeypatch, capsys)
    strategies, _ = listing(monkeypatch, capsys, "strategies")
    request.getfixturevalue("installed")
    after, captured = listing(monkeypatch, capsys)
    assert set(after) == set(before) | set(SAID) | {"talks", "renamed"}
    for name, line in before.items():
        assert after[name].split() == line.split()
    for name, parts in SAID.items():
        assert "cannot be used" in after[name]
        assert all(part in after[name] for part in parts)
    assert "a task that talks  [text,audio,vision]  (talkative 1.5)" in after["talks"]
    assert "hello" not in captured.out
    assert "hello from a plug-in" in captured.err
    assert listing(monkeypatch, capsys, "strategies")[0] == strategies


def test_the_list_of_all_groups_says_which_cannot_be_used(installed, monkeypatch, capsys):
    _, captured = listing(monkeypatch, capsys, "plugins")
    lines = captured.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{g.kind} ({n})" for n, g in registry.GROUPS.items()
    ]
    for group in registry.GROUPS:
        for name in registry.names(group):
            assert any(line.split()[0] == name for line in lines)
    for name, parts in SAID.items():
        (line,) = (line for line in lines if line.split()[0] == name)
        assert "cannot be used" in line
        assert all(part in line for part in parts)
    assert f"  {'talks':16} a task that talks  (talkative 1.5)" in lines


def test_other_programs_read_the_error_of_one_that_cannot_be_used(installed, monkeypatch, tmp_path):
    command(monkeypatch, "tasks", "--json", tmp_path / "tasks.json")
    rows = {row["name"]: row for row in json.loads((tmp_path / "tasks.json").read_text())["tasks"]}
    assert rows["talks"]["package"] == "talkative 1.5"
    for name, parts in SAID.items():
        assert set(rows[name]) == {"name", "error"}
        assert all(part in rows[name]["error"] for part in parts)


@pytest.mark.parametrize("name", SAID)
def test_each_is_refused_in_one_line(name, installed, monkeypatch, capsys, tmp_path):
    command(monkeypatch, "train", "--task", name, "--out", str(tmp_path / "run"), code=1)
    said = capsys.readouterr().err.removeprefix("hello from a plug-in\n")
    assert said.startswith(f"PluginError: task '{name}' ")
    assert said.count("\n") == 1
    assert all(part in said for part in SAID[name])
    assert not (tmp_path / "run").exists()


def test_the_cause_is_shown_on_demand(installed, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cggm-med", "train", "--task", "imports", "--debug"])
    with pytest.raises(PluginError) as caught:
        cli.main()
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_the_same_thing_from_two_packages_is_no_conflict(installed):
    assert registry.load(registry.TASKS, "renamed").description == "a task that talks"


def test_what_names_the_missing_extra_itself_is_left_as_it_is(installed, tmp_path):
    (tmp_path / "np_imports.py").write_text(
        "from cggm_med import MissingExtra\nraise MissingExtra('task', 'torch-geometric', 'dialogue')"
    )
    with pytest.raises(MissingExtra, match=r"pip install 'cggm-med\[dialogue\]'"):
        registry.load(registry.TASKS, "imports")


def test_a_broken_strategy_is_refused_likewise(tmp_path, monkeypatch):
    write_metadata(tmp_path, "wrong", "2", registry.STRATEGIES, {"wrong": "cggm_med_tasks.affect.mosi:MOSI"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"strategy 'wrong' of package wrong 2 .* subclass of .*BalancingStrategy"):
        registry.load(registry.STRATEGIES, "wrong")


def test_what_is_installed_meanwhile_is_seen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert "meanwhile" not in registry.names(registry.TASKS)
    write_metadata(tmp_path, "late", "1.5", registry.TASKS, {"meanwhile": "np_talks:Talks"})
    assert registry.package(registry.TASKS, "meanwhile") == "late 1.5"
