"""At least 90 % of 300 drawn mutants are killed by the tests of their room: metrics, balancing, labels and so on.

A mutant is one change of one file: another comparison, operator, number, truth value or condition, or a statement that
is left out. It is made in a copy of the tree, where the tests run that ``tests/quick.py`` names for its file, those of
its own name first. The first six tries are survivors of an earlier campaign.
"""

import ast
import copy
import importlib
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import quick

from campaign.tries import campaign

ROOT = quick.ROOT
FILES = (
    *("metrics", "strategies", "files.py", "training/checkpoint.py"),
    *(
        f"data/volumes/{name}.py"
        for name in (
            "labels",
            "label_files",
            "geometry",
            "grids",
            "background",
            "spacing",
            "network_grid",
            "transforms",
        )
    ),
)
OWN = ("cggm_med", "cggm_med_tasks", "campaign", "helpers", "quick")
SECONDS = 600  # of the processor; a mutant that computes without end is killed
PRELOADED = ("torch", "monai.metrics", "nibabel", "SimpleITK", "scipy.spatial", "sklearn.metrics", "hypothesis", "rich")
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.UAdd: ast.USub, ast.USub: ast.UAdd},
}
EARLIER = (
    ("training/checkpoint.py", "(monitor, checkpoint.monitor),", ""),
    ("strategies/cggm.py", "coefficients = coefficients / self.config.rho", "pass"),
    ("strategies/base.py", "usable = usable & torch.isfinite(factor).all()", "pass"),
    ("files.py", "if not path.is_dir():\n                    raise", "pass"),
    ("files.py", "allow_nan=False", "allow_nan=True"),
    ("metrics/lesions.py", "np.searchsorted(share, 0.95)", "np.searchsorted(share, 0.95, side='right')"),
)
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)
# By file and what was changed, why no test can tell.
EQUIVALENT: dict[tuple[str, str], str] = {}


def sources() -> list[Path]:
    """The files that are mutated."""
    places = [ROOT / "cggm_med" / name for name in FILES]
    return [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]


def changes(tree: ast.Module) -> Iterator[tuple[ast.AST, str, object]]:
    """Each place of a module that can be changed: node, field, and the new value of the field."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AnnAssign | ast.arg):
            parts = [getattr(node, name, None) for name in ("returns", "annotation")]
            skipped |= {id(inner) for part in parts if part is not None for inner in ast.walk(part)}
        if isinstance(node, ast.Raise | ast.JoinedStr):  # words
            skipped |= {id(inner) for inner in ast.walk(node)} - {id(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            yield node, "ops", [SWAPPED[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp | ast.UnaryOp) and type(node.op) in SWAPPED:
            yield node, "op", SWAPPED[type(node.op)]()
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, "op", ast.UAdd()
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield node, "value", node.value + 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, "value", not node.value
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node, "test", ast.UnaryOp(ast.Not(), node.test)
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            for number, statement in enumerate(statements if isinstance(statements, list) else ()):
                if isinstance(statement, ast.Raise | ast.AugAssign) or (
                    isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
                ):
                    yield node, name, [*statements[:number], ast.Pass(), *statements[number + 1 :]]


def mutated(source: str, number: int) -> tuple[str, str]:
    """The source with its change of that number, and what it changed, in one line."""
    tree = ast.parse(source)
    node, field, value = list(changes(tree))[number]
    before = ast.unparse(copy.deepcopy(node))
    setattr(node, field, value)
    after = ast.unparse(ast.fix_missing_locations(tree))
    differing = [
        (old.strip(), new.strip())
        for old, new in zip(before.splitlines(), ast.unparse(node).splitlines(), strict=False)
        if old != new
    ]
    old, new = differing[0] if differing else (before.splitlines()[0], "")
    return after + "\n", f"{old} -> {new}"


class Copy:
    """A copy of the tree, in which one file at a time is changed and tested."""

    def __init__(self, folder: Path):
        self.root = folder / "tree"
        kept = ("cggm_med", "tests", "tasks", "pipelines", "docs", "benchmarks", "pyproject.toml", "README.md")
        for name in kept:
            whole = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            self.root.mkdir(exist_ok=True)
            whole(ROOT / name, self.root / name)
        self.said: Path = folder / "said"
        self.sound: set[str] = set()
        self.places = [(file, n) for file in sources() for n in range(len(list(changes(ast.parse(file.read_text())))))]
        for name in PRELOADED:
            importlib.import_module(name)

    def attempt(self, rng) -> tuple[str, list[str]]:
        """Let one mutant be tested."""
        _, number = rng.bit_generator.seed_seq.entropy  # as ``tries.drawn`` made it
        if number < len(EARLIER):
            name, old, new = EARLIER[number]
            file = ROOT / "cggm_med" / name
            assert file.read_text().count(old) == 1, old
            content, change = file.read_text().replace(old, new), f"{old} -> {new}"
        else:
            file, number = self.places[int(rng.integers(len(self.places)))]
            content, change = mutated(file.read_text(), number)
        name = file.relative_to(ROOT / "cggm_med").as_posix()
        if (name, change) in EQUIVALENT:
            return "equivalent", []
        place = self.root / "cggm_med" / name
        place.write_text(content)
        try:
            if self.passes([*self.doctests(file), *self.tests(file)]):
                return "survived", [f"{name}: {change}"]
        finally:
            shutil.copy(file, place)
        # A test that fails by itself would kill every mutant.
        failed = [test for test in FAILED.findall(self.said.read_text(errors="replace")) if test not in self.sound]
        assert not failed or self.passes(failed), self.said.read_text()
        self.sound.update(failed)
        return "killed", []

    def doctests(self, file: Path) -> list[str]:
        return ["--doctest-modules", str(file.relative_to(ROOT))]

    def tests(self, file: Path) -> list[str]:
        """The files of tests of a file's room, those of its name first."""
        places = sorted(quick.laws(file.relative_to(ROOT).as_posix()))
        room = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("test_*.py")))]
        room.sort(key=lambda path: file.stem.rstrip("s") not in path.stem)
        return [str(path.relative_to(ROOT)) for path in room]

    def passes(self, words: list[str]) -> bool:
        """Whether these tests pass in the copy, in a process of their own."""
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = self._tested(words)
            finally:
                sys.stdout.flush()
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def _tested(self, words: list[str]) -> int:
        os.setpgid(0, 0)
        handle = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(10 * SECONDS)
        os.chdir(self.root)
        own = {str(ROOT), str(ROOT / "tests"), str(ROOT / "tasks"), ""}
        here = [str(self.root / name) for name in (".", "tests", "tasks")]
        sys.path[:] = [*here, *(place for place in sys.path if place not in own)]
        os.environ["PYTHONPATH"] = os.pathsep.join(here)
        for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
            del sys.modules[name]
        quietly = ["-n0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return int(pytest.main(["-x", "-q", "-m", "not slow", *quietly, *words]))


def prepare(folder: Path):
    """What the tries share: a copy of the tree."""
    return Copy(folder).attempt


if __name__ == "__main__":
    campaign("mutants", 300, prepare)
