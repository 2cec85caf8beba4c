"""``cggm-med new-strategy``: what it writes is installed with pip, found, trained with, and held to the laws."""

import json
import re

import pytest
from helpers import processes
from helpers.command_line import set_options
from helpers.packages import (
    ROOT,
    assert_its_own_tests_pass,
    assert_keeps_the_rules_of_this_project,
    assert_template_with_another_name,
    cggm_med,
    installed,
    new_package,
)
from helpers.small_runs import small_settings

from cggm_med.errors import ConfigError
from cggm_med.scaffold.packages import STRATEGY, write_package

NAME = "level"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return new_package(STRATEGY, NAME, tmp_path_factory.mktemp("new") / "package")


@pytest.fixture(scope="module")
def environment(package, tmp_path_factory):
    return installed(package, tmp_path_factory.mktemp("installed"))


@pytest.mark.slow
def test_it_is_listed_beside_the_built_in_ones(environment):
    for command in ("strategies", "plugins"):
        lines = {line.split()[0]: line.strip() for line in cggm_med(environment, command).splitlines()}
        assert lines[NAME].startswith(f"{NAME} ")
        assert "larger updates for the modalities that score below the mean" in lines[NAME]
        assert lines[NAME].endswith("(level_strategy 0.1.0)")
        assert "cggm" in lines


@pytest.mark.slow
def test_it_trains_from_the_command_line_and_its_factors_are_logged(environment, phantom, cache, tmp_path):
    flags = set_options(small_settings(phantom, cache))
    words = ["train", "--task", "brats2021", "--preset", "tiny", "--strategy", NAME, "--out", tmp_path / "run"]
    cggm_med(environment, *words, *flags, "--set", "strategy.strength=0.8")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    factors = [record["factor"] for record in map(json.loads, lines) if "factor" in record]
    assert len({tuple(factor.values()) for factor in factors}) > 1
    assert all(sum(factor.values()) == pytest.approx(4, abs=1e-4) for factor in factors)
    assert "strength: 0.8" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_its_own_tests_pass(package, environment):
    assert_its_own_tests_pass(package, environment, count=4)


@pytest.mark.slow
def test_its_own_tests_notice_a_law_that_is_broken(package, environment, tmp_path):
    """A rule that is not symmetric at a tie."""
    file = package / f"{NAME}_strategy" / "strategy.py"
    spoilt = file.read_text().replace("return 1 + strength *", "return 1.01 + strength *")
    assert spoilt != file.read_text()
    (tmp_path / f"{NAME}_strategy").mkdir()
    (tmp_path / f"{NAME}_strategy" / "strategy.py").write_text(spoilt)
    (tmp_path / f"{NAME}_strategy" / "__init__.py").touch()
    paths = f"{tmp_path}:{environment['PYTHONPATH']}"
    words = ["-m", "pytest", "-p", "no:cacheprovider", package / "tests", "-k", "laws"]
    done = processes.run(*words, env={**environment, "PYTHONPATH": paths}, cwd=tmp_path)
    assert done.returncode == 1
    assert "strategy level breaks the law" in done.stdout


def test_it_is_the_template_with_another_name(package):
    assert_template_with_another_name(STRATEGY, package, NAME, "Level")


def test_it_keeps_the_rules_of_this_project(package):
    assert_keeps_the_rules_of_this_project(package)


def test_the_guide_shows_what_is_written(package):
    guide = (ROOT / "docs" / "how-to" / "add-a-strategy.md").read_text()
    for file in (package / f"{NAME}_strategy" / "strategy.py", package / "tests" / f"test_{NAME}.py"):
        assert f"```python\n{file.read_text()}```" in guide


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Level", "expected lower-case letters, digits and underscores, beginning with a letter, such as level"),
        ("class", "a word of Python"),
        ("cggm", r"is taken by cggm-med \S+; choose another"),
        ("factor_strategy", "the name of a base class"),
    ],
)
def test_names_that_cannot_be_used(name, message, tmp_path):
    with pytest.raises(ConfigError, match=f"^strategy name '{re.escape(name)}'.*{message}"):
        write_package(STRATEGY, name, tmp_path / "package")
    assert not (tmp_path / "package").exists()
