"""Packages as a stranger writes and installs them: in folders of their own, nothing else is touched."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cggm_med.scaffold.packages import SUFFIXES
from helpers import processes

ROOT = Path(__file__).parents[2]


def run(environment, *command, folder=None):
    words = [sys.executable, "-W", "ignore", *map(str, command)]
    return subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


def cggm_med(environment, *words):
    """What a command says; it must succeed."""
    done = processes.run("-m", "cggm_med.cli", *words, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def installed(package, target):
    """Environment variables under which the package is installed."""
    # Built by the hatchling that the project itself needs; no index is asked.
    command = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", target, package]
    done = run(os.environ, *command)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        **os.environ,
        "PYTHONPATH": str(target),
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(target / "cache"),
    }


def write_metadata(folder, package, version, group, entries):
    """What an installer leaves of a package in a folder on the path; entry points are "name": "module:object"."""
    metadata = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [f"{name} = {value}\n" for name, value in entries.items()]
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{''.join(lines)}")


def listed(environment, command, name):
    """What a command that lists says of this name."""
    lines = cggm_med(environment, command).splitlines()
    return next(line.strip() for line in lines if line.split()[0] == name)


def python_blocks(page):
    """The Python code that a page shows."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def new_package(kind, name, folder, *words):
    """The package, as the command writes it."""
    said = cggm_med(os.environ, f"new-{kind.word}", name, "--out", folder, *words)
    assert f"pip install -e {folder}" in said
    assert f"cggm-med train --{kind.word} {name}" in said
    return folder


def assert_template_with_another_name(kind, package, name, class_name):
    """Put back, the name gives the template; nothing of the template is left out, and nothing else comes along."""
    sources = [path for path in kind.template.rglob("*") if path.suffix in SUFFIXES]
    written = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*") if path.is_file()}
    assert len(written) == len(sources) == 5
    placeholders = (kind.name, kind.name.capitalize())
    assert not any(word in path + text for path, text in written.items() for word in placeholders)
    for source in sources:
        text = written[str(source.relative_to(kind.template)).replace(kind.name, name)]
        assert text.replace(name, kind.name).replace(class_name, kind.name.capitalize()) == source.read_text()


def assert_its_own_tests_pass(package, environment, *, count):
    done = run(environment, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", folder=package)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{count} passed" in done.stdout


def assert_keeps_the_rules_of_this_project(package):
    pytest.importorskip("ruff")
    rules = ["--no-cache", "--config", ROOT / "pyproject.toml", "--config", f"src = ['{package}']"]
    in_tests = ["--extend-per-file-ignores", "test_*.py:D,test_*.py:S101,test_*.py:S603"]
    for words in (["check", *in_tests], ["format", "--check"]):
        done = run(os.environ, "-m", "ruff", *words, *rules, package)
        assert done.returncode == 0, done.stdout
