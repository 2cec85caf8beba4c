"""What messages advise is there: every command, option and setting that a text of the package proposes."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest
import typer

from cggm_med import registry
from cggm_med.cli.app import app
from cggm_med.config import SHARED_SECTIONS

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("cggm_med", "tasks") for path in sorted((ROOT / folder).rglob("*.py"))]
# Files by modality; and of dcmdjpeg, monai.bundle, nnU-Net and torchrun.
OF_OTHERS = {"--flair", "--t1", "--t1ce", "--truth", "--prediction"} | {
    *("--raw", "--config_file", "--dataset_dir", "--output_dir", "--c"),
    *("--max-restarts", "--rdzv-id", "--standalone"),
}


def texts():
    """File, line and text of each sentence in the code, with {} for what is filled in; docstrings are none."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        owners = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        seen = {id(n.body[0].value) for n in owners if n.body and isinstance(n.body[0], ast.Expr)}
        for node in ast.walk(tree):  # from outside to inside
            if isinstance(node, ast.JoinedStr):
                seen |= {id(part) for part in node.values}
                text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in seen:
                text = node.value
            else:
                continue
            if " " in text:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def options():
    """The options of each command, by its words."""

    def within(words, command):
        if hasattr(command, "commands"):
            return {k: v for name, one in command.commands.items() for k, v in within((*words, name), one).items()}
        return {words: {option for parameter in command.params for option in parameter.opts}}

    return within((), typer.main.get_command(app))


@pytest.fixture(scope="module")
def sentences():
    found = list(texts())
    assert len(found) > 1500
    return found


def test_options_exist(sentences):
    every = set.union(*options().values()) | {"--help", "--version"} | OF_OTHERS
    named = {(where, option) for where, text in sentences for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)}
    assert len(named) > 80
    assert not sorted((where, option) for where, option in named if option not in every)


def test_commands_exist_and_have_the_options_that_follow(sentences):
    of = options()
    named = [(w, m) for w, text in sentences for m in re.findall(r"(?:^|['`(:] ?)cggm-med ([a-z][^'`;:(),]*)", text)]
    assert len(named) > 30
    for where, said in named:
        words = said.split()
        command = next((of[key] for key in (tuple(words[:1]), tuple(words[:2])) if key in of), None)
        assert command is not None, (where, said)
        assert {word for word in words if re.fullmatch(r"--[a-z][\w-]*", word)} <= command, (where, said)


def test_settings_exist(sentences):
    sections = {(name, section) for name, section in SHARED_SECTIONS.items()}
    for task in (registry.load(registry.TASKS, name) for name in registry.names(registry.TASKS)):
        sections |= {("task", task.TaskConfig), ("data", task.DataConfig), ("model", task.ModelConfig)}
    for name in registry.names(registry.STRATEGIES):
        sections.add(("strategy", registry.load(registry.STRATEGIES, name).Config))
    keys = {f"{section}.{field.name}" for section, cls in sections for field in dataclasses.fields(cls)}
    pattern = rf"(?<![\w./-])((?:{'|'.join({section for section, _ in sections})})\.[a-z_]+)\b(?![./(])"
    named = {(where, key) for where, text in sentences for key in re.findall(pattern, text)}
    files = ("json", "py", "yaml", "csv", "md", "txt", "zip")
    assert len(named) > 80
    assert not sorted((w, key) for w, key in named if key not in keys and key.partition(".")[2] not in files)
