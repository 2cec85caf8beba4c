"""What the documentation names is there: files, modules, links, commands, settings, targets of make, and counts."""

import ast
import importlib.metadata
import importlib.util
import pkgutil
import re
import shlex
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest
import typer

import cggm_med
from cggm_med import registry
from cggm_med.cli.app import app
from cggm_med.comparison.variants import UNIMODAL
from cggm_med.config import to_tree
from cggm_med.runs.settings import make_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [*sorted((ROOT / "pipelines").rglob("*.md")), ROOT / "cggm_med" / "vendored" / "niivue" / "README.md"]
SOURCES = [path for folder in ("cggm_med", "tasks", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
SOURCES.remove(Path(__file__))
# Files of others: made by the reader of a recipe, of papers' authors and challenges, in a wheel, or that shall not be.
ELSEWHERE = {
    *("level_strategy/strategy.py", "level/tests/test_level.py", "test_spread.py", "spoken_digits_task/task.py"),
    *("ms_lesions_task/task.py",),
    *("my_tasks/ms.py", "my_metrics/assd.py", "my_networks/residual.py", "my_networks/attention.py"),
    *("src/segtrain.py", "segtrain.py", "dataloader.py", "Classifier.py", "prepare.py", "utils.py", "loss_creator.py"),
    *("main_Prototype_grad.py", "main_dgl.py", "model_OGM_Shapley_MMPareto.py", "code/config.py"),
    *("PMR_trainer.py", "GBlending_trainer.py", "AMCo_trainer.py", "avclassify_model.py", "UMT_trainer.py"),
    *("MLA_trainer.py", "ReconBoost_trainer.py", "utils/utils.py", "main.py", "train_MSA.py"),
    "dataset/VGGSoundDataset.py",
    *("metrics.py", "cggm_med/pipelines"),
}
# A file of another repository, named with its commit.
OF_OTHERS = re.compile(r"@[0-9a-f]{7}[\s\"]+[\w./-]+")
of_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def stale_files(text, nearby):
    """Paths of Python files, and in back ticks any from the root, that are not in the repository."""
    names = {path.name for path in SOURCES}
    text = OF_OTHERS.sub("", text)
    for named in re.findall(r"`([\w./*-]+)`|(?<![\w./:-])((?:\w+/)+\w+\.py)\b", text):
        named = named[0] or named[1]
        below = any(
            named.startswith(f"{top}/") for top in ("cggm_med", "tests", "docs", "benchmarks", "tasks", "pipelines")
        )
        if not (below or named.endswith(".py")) or named in ELSEWHERE:
            continue
        homes = (ROOT, ROOT / "cggm_med", ROOT / "tasks" / "cggm_med_tasks", nearby)
        if named not in names and not any(any(home.glob(named.rstrip("/"))) for home in homes):
            yield named


def stale_modules(text):
    """Dotted names of these packages that do not resolve; the groups of entry points look the same and are none."""
    for named in re.findall(r"\b(cggm_med(?:_tasks)?(?:\.[A-Za-z]\w*)+)(?![\w./])", text):
        if named not in GROUPS:
            try:
                pkgutil.resolve_name(named)
            except (ImportError, AttributeError):
                yield named


GROUPS = {entry.group for entry in importlib.metadata.distribution("cggm-med").entry_points}


@of_every_page
def test_files_and_modules_are_where_a_page_says(page):
    text = page.read_text()
    assert sorted({*stale_files(text, page.parent), *stale_modules(text)}) == []


def test_files_are_where_a_docstring_or_a_comment_says():
    stale = {
        (str(path.relative_to(ROOT)), named) for path in SOURCES for named in stale_files(path.read_text(), path.parent)
    }
    assert sorted(stale) == []


def prose(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """What a link into a page may name, as GitHub forms it from the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@of_every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("http:", "https:", "mailto:")):
            path, _, anchor = target.partition("#")
            to = (page.parent / path).resolve() if path else page
            assert to.exists(), target
            assert not anchor or anchor in anchors(to), target


def blocks(page, *languages):
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for language, text in found if language in languages]


def commands(page):
    """The words after ``cggm-med`` of each command in a block of code or in back ticks."""
    for block in blocks(page, "", "bash", "sh", "console"):
        pending = ""
        for line in block.splitlines():
            if pending or re.search(r"\bcggm-med ", line):
                pending += " " + line.rstrip("\\")
                if not line.endswith("\\"):
                    try:
                        words = shlex.split(pending, comments=True)
                    except ValueError:  # the quotation goes on
                        continue
                    pending = ""
                    yield words
        assert not pending, pending
    for text in re.findall(r"`([^`\n]*\bcggm-med [^`\n]+)`", page.read_text()):
        yield shlex.split(text)


def parse(words):
    """Options as the command line itself reads them; fails for a command or an option that is not there."""
    command = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
        context = command.context_class(command, info_name=name, parent=context, **command.context_settings)
    if context is None:
        context = command.context_class(command, info_name="cggm-med")
    options, rest, _ = command.make_parser(context).parse_args(list(words))
    assert rest == [] or context.allow_extra_args, rest
    return options


@pytest.fixture(scope="module")
def settings():
    """The keys of all settings."""
    trees = [to_tree(make_config(task, [])) for task in registry.names(registry.TASKS)]
    keys = {f"{name}.{key}" for tree in trees for name, part in tree.items() if isinstance(part, dict) for key in part}
    for strategy in registry.names(registry.STRATEGIES):
        keys |= {f"strategy.{key}" for key in to_tree(registry.load(registry.STRATEGIES, strategy).Config(strategy))}
    return keys


@of_every_page
def test_commands_are_those_of_the_command_line(page, settings):
    for words in commands(page):
        start = next(i for i, word in enumerate(words) if Path(word).name == "cggm-med")
        used = [word for word in words[start + 1 :] if word != "..."]
        end = next((i for i, word in enumerate(used) if word in ("|", ">", "&&", ";", "&")), len(used))
        try:
            parse(used[:end])
        except Exception as error:
            raise AssertionError(f"{' '.join(words)}: {error}") from error
        for option, value in pairwise(used):
            if option == "--set" and not value.isupper():
                assert value.partition("=")[0] in settings, value
            if option in ("--task", "--strategy", "--strategies") and not page.name.startswith("add-"):
                known = {*registry.names(registry.TASKS), *registry.names(registry.STRATEGIES), UNIMODAL}
                assert set(re.sub(r"\[.*?\]|\s", "", value).split(",")) <= known, value


@of_every_page
def test_python_examples_import_what_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("cggm_med", "cggm_med_tasks"):
                assert [alias.name for alias in node.names if not resolves(f"{node.module}.{alias.name}")] == []


def resolves(name):
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@of_every_page
def test_targets_of_make_are_in_the_makefile(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = page.read_text()
    named = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    assert set(named) <= set(targets)


@of_every_page
def test_extras_are_those_of_the_package(page):
    extras = importlib.metadata.metadata("cggm-med").get_all("Provides-Extra")
    named = re.findall(r"(?:cggm-med|\.)\[([a-z0-9,-]+)\]", page.read_text())
    assert {extra for group in named for extra in group.split(",")} <= set(extras)


# ---- lists and counts ------------------------------------------------------------------------------------------------


def test_every_strategy_has_its_row_and_its_section():
    text = (ROOT / "docs" / "explanation" / "algorithms.md").read_text()
    names = set(registry.names(registry.STRATEGIES))
    table = re.search(r"^\| name \| acts on .*\n\|[ |-]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == names
    hooks = re.search(r"^\| hook \| ordinary .*\n\|[ |-]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    assert (
        set(re.findall(r"`(\w+)`", " ".join(row.split("|")[3] for row in hooks.splitlines())))
        - {"released", "L", "L_m"}
        <= names
    )
    headings = " ".join(re.findall(r"^## (.*)$", text, re.MULTILINE)).lower()
    assert [name for name in names if not re.search(rf"\b{name.replace('_', '.')}\b", headings)] == []


def test_every_page_and_every_decision_is_in_the_index():
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)]+)\)", index.read_text())
    }
    assert set((ROOT / "docs").rglob("*.md")) - {index} <= linked
    numbers = [path.name[:4] for path in sorted((ROOT / "docs" / "decisions").glob("0*"))]
    assert numbers == [f"{i:04}" for i in range(1, len(numbers) + 1)]
    for number, title, target in re.findall(
        r"^- \[(\d{4}) (.*?)\]\((decisions/.*?)\)$", index.read_text(), re.MULTILINE
    ):
        assert Path(target).name.startswith(number), title


def test_every_public_name_is_on_the_page_of_the_python_reference():
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    named = re.findall(r"^\.\. auto(?:class|function):: cggm_med\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(cggm_med.__all__)


def test_the_readme_is_short_and_counts_right():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 700
    assert f"any of {len(registry.names(registry.STRATEGIES)) - 1} other strategies" in text


def test_every_task_stands_in_the_table_of_tasks():
    table = (ROOT / "docs/tasks.md").read_text().split("| task | modalities |", 1)[1].split("\n\n", 1)[0]
    named = [name for row in re.findall(r"^\| (\[.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(registry.names(registry.TASKS))


def test_the_hostile_pickles_are_counted():
    spec = importlib.util.spec_from_file_location("pickles", ROOT / "tests/tasks/readers/test_untrusted_pickle.py")
    pickles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pickles)
    assert f"none of {len(pickles.CASES)} hostile pickles" in (ROOT / "docs/trust.md").read_text()


def test_the_table_of_label_conventions():
    conventions = registry.load(registry.TASKS, "brats2021").conventions
    table = (ROOT / "docs/quickstart.md").read_text().split("| name | 1 | 2 | 3 | 4 |", 1)[1].split("\n\n", 1)[0]
    for name, *meanings in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", table, re.MULTILINE):
        found = {label: meaning for label, meaning in enumerate(meanings, 1) if meaning != "-"}
        assert found == dict(conventions[name].meanings), name
    assert len(re.findall(r"^\| `", table, re.MULTILINE)) == len(conventions)


def test_the_checks_can_fail():
    """Else a page full of stale names would pass."""
    assert list(stale_files("`engine2.py`, `cggm_med/nowhere`, `strategies/nobody.py`", ROOT)) == [
        "engine2.py",
        "cggm_med/nowhere",
        "strategies/nobody.py",
    ]
    assert list(stale_modules("cggm_med.models.nobody and cggm_med_tasks.brats1999:X")) == [
        "cggm_med.models.nobody",
        "cggm_med_tasks.brats1999",
    ]
    for words in (["trian"], ["train", "--no-such"], ["nnunet", "nothing"], ["doctor", "superfluous", "words"]):
        with pytest.raises(Exception, match=r"."):
            parse(words)
    assert resolves("cggm_med.CGGM")
    assert not resolves("cggm_med.NoSuchName")
