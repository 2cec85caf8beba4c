"""The quick laws of a part of the package: ``make quick PART=strategies``; without a part, of what changed since main.

A part is a file or folder of the package (``metrics``, ``evaluation/probe``, ``cggm_med/viewer``) or of the tests
(``tests/e2e/test_view.py``); several are separated by spaces. Tests marked slow are left to ``make test``.
"""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Where the laws of a room stand beside the folder of its name, or in place of it.
LAWS = {
    "__init__.py": ["test_exported_members.py"],
    "__init__.pyi": ["test_exported_members.py"],
    "bundle": ["e2e/test_bundle.py"],
    "device_name.py": ["test_device.py"],
    "distributed.py": ["strategies/test_spread.py"],
    "errors.py": ["e2e/test_bad_input.py"],
    "files.py": ["training/test_checkpoint.py"],
    "inference": ["e2e/test_predict.py"],
    "registry.py": ["plugin/test_broken_plugins.py"],
    "runs": ["e2e/test_resume.py"],
    "scaffold": ["plugin"],
    "testing": ["strategies/test_all.py"],
}


def laws(part: str) -> set[Path]:
    """The files and folders of tests for a file or folder; none where nothing tests it by itself.

    Example:
        >>> sorted(path.relative_to(TESTS).as_posix() for path in laws("cggm_med/evaluation/probe/table.py"))
        ['evaluation']
    """
    path = Path(part)
    if path.parts[:1] == ("tests",):
        if path.parts[1] == "helpers":
            named = f"helpers.{path.stem}"
            return {test for test in TESTS.rglob("test_*.py") if named in test.read_text()}
        inside = path.name.startswith("test_") or (ROOT / path).is_dir()
        return {ROOT / path} if inside and (ROOT / path).exists() else set()
    if path.parts[:1] == ("docs",) or path.suffix == ".md":
        return {TESTS / "test_docs.py"}
    room = path.relative_to("cggm_med") if path.parts[:1] == ("cggm_med",) else path
    for place in [room, *room.parents][:-1]:
        folder = place if place.suffix != ".py" else f"test_{place.name}"
        found = {TESTS / test for test in (folder, *LAWS.get(place.as_posix(), ())) if (TESTS / test).exists()}
        if found:
            return found
    return set()


def changed() -> list[str]:
    """Files that differ from where this branch left main, uncommitted and new ones included."""

    def git(*words: str) -> list[str]:
        command = ["git", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    main = git("branch", "--list", "main", "--format", "%(refname)") or ["HEAD"]
    base = git("merge-base", "HEAD", *main)
    return [*git("diff", "--name-only", *base), *git("ls-files", "--others", "--exclude-standard")]


def main(parts: list[str]) -> int:
    unknown = [part for part in parts if not laws(part)]
    if unknown:
        rooms = sorted(path.name for path in TESTS.iterdir() if path.is_dir() and any(path.glob("**/test_*.py")))
        sys.exit(f"no tests of {', '.join(unknown)}; expected a file, or a part such as {', '.join(rooms)}")
    chosen = sorted({str(path) for part in parts or changed() for path in laws(part)})
    if not chosen:
        sys.exit("nothing that is tested has changed since main; name a part, such as make quick PART=strategies")
    sys.stdout.write(f"{' '.join(Path(path).relative_to(ROOT).as_posix() for path in chosen)}\n")
    return pytest.main([*chosen, "-m", "not slow", "--numprocesses", "auto", "--dist", "loadgroup"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
