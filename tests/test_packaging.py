"""What is shipped is whole and says where it comes from: wheel, sdist, their page, tested versions, container."""

import json
import re
import subprocess
from pathlib import Path

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
METADATA = ProjectMetadata(str(ROOT), PluginManager())
PROJECT = METADATA.config["project"]
# ".invalid" is reserved and leads nowhere (RFC 2606). The project has no public address yet; who gives it one replaces
# the placeholder in pyproject.toml, where alone it stands, and takes out the classifier that keeps the package from
# being uploaded.
PLACEHOLDER = "https://cggm-med.invalid"


def in_git(*places):
    """Files of the repository, or of an unpacked sdist, which has no history."""
    listed = subprocess.run(["git", "ls-files", "-z", *places], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    if listed.returncode == 0:
        return {name for name in listed.stdout.split("\0") if name}
    found = (path for place in places or (".",) for path in (ROOT / place).rglob("*"))
    files = {str(path.relative_to(ROOT)) for path in found if path.is_file() and "__pycache__" not in path.parts}
    return files - {"PKG-INFO"}  # which the build adds


def test_the_address_stands_in_one_file_and_keeps_the_project_from_being_uploaded_until_it_is_known():
    address = PROJECT["urls"]["Repository"].rstrip("/")
    elsewhere = {"pyproject.toml", "tests/test_packaging.py"}
    texts = {name: (ROOT / name).read_bytes() for name in in_git() - elsewhere if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if address.encode() in text] == []
    assert all(url.startswith(address) for url in PROJECT["urls"].values())
    assert ("Private :: Do Not Upload" in PROJECT["classifiers"]) == (address == PLACEHOLDER)


def test_links_and_pictures_of_the_readme_work_where_only_the_package_is():
    text = METADATA.core.readme
    readme, address = (ROOT / "README.md").read_text(), PROJECT["urls"]["Repository"].rstrip("/")
    links = re.findall(r"(!?)\[[^]]*\]\(([^)\s]+)\)", text)
    assert len(links) == len(re.findall(r"\]\([^)]", readme))
    assert [link for _, link in links if not link.startswith(("https://", "#"))] == []
    assert not re.search(r"(?:src|srcset|href)=\"(?!https://|#)", text)
    for picture, link in links:
        if link.startswith(address):
            view, _, path = link.removeprefix(f"{address}/").partition("/main/")
            assert view == ("raw" if picture else "blob"), link
            assert (ROOT / path.partition("#")[0]).exists(), link


def test_the_wheel_holds_every_file_of_the_packages():
    held = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    homes = {"tasks/": "", "pipelines/": "cggm_med/pipelines/", "cggm_med/": "cggm_med/"}
    expected = {homes[top] + name.removeprefix(top) for top in homes for name in in_git(top)}
    assert len(expected) > 300
    assert expected - held == set()


def test_the_sdist_holds_what_its_own_tests_need():
    held = {file.distribution_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    tracked = {name for name in in_git() if not name.startswith(".")}
    assert tracked - held == {"pyproject.toml"}  # which is added in any case


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_constraints_are_plain_versions_of_all_that_the_tests_use():
    found, extras = pins(), PROJECT["optional-dependencies"]
    assert all(re.fullmatch(r"[a-z0-9-]+", name) and re.fullmatch(r"[\w.]+", pin) for name, pin in found.items())
    tested = next(r for r in map(Requirement, extras["dev"]) if r.name == PROJECT["name"]).extras - {"docs"}
    needs = [*PROJECT["dependencies"], *(needed for extra in tested for needed in extras[extra])]
    for needed in map(Requirement, needs):
        assert needed.specifier.contains(found[canonicalize_name(needed.name)]), needed


def test_no_version_is_allowed_for_which_an_advisory_is_known():
    """Whoever hears of an advisory adds it to the list."""
    optional = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    asked = [Requirement(line) for line in [*PROJECT["dependencies"], *optional]]
    for advisory, of in json.loads((ROOT / "tests" / "advisories.json").read_text()).items():
        named = [requirement for requirement in asked if requirement.name == of["package"]]
        assert named, f"{advisory}: {of['package']} is not required any more"
        for requirement in named:
            floors = [Version(bound.version) for bound in requirement.specifier if bound.operator in {">=", "==", "~="}]
            assert max(floors) >= Version(of["fixed in"]), f"{advisory}: {requirement}"


def test_every_extra_has_its_row():
    page = (ROOT / "docs" / "how-to" / "install.md").read_text()
    table = page.split("| extra | adds |", 1)[1].split("\n\n", 1)[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(PROJECT["optional-dependencies"])


def test_the_container_is_made_of_files_that_are_there_and_sent():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in sent)
    text = (ROOT / "Containerfile").read_text()
    assert set(re.findall(r"^COPY ([^\s-]\S*) /", text, re.MULTILINE)) <= sent
    # What hatchling needs to build the wheel.
    assert {"pyproject.toml", "README.md", *PROJECT["license-files"][:1], "cggm_med", "tasks", "pipelines"} <= sent
    declared = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", text)) == declared
    extras = re.search(r"^ARG EXTRAS=(\S+)", text, re.MULTILINE)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
