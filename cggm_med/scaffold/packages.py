"""Writing a small package with a task or a strategy that works at once: a beginning for one's own."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

import cggm_med
from cggm_med import registry
from cggm_med.errors import ConfigError, OutputError
from cggm_med.files import atomic_folder

TEMPLATES = Path(__file__).with_name("templates")
SUFFIXES = (".md", ".py", ".toml")
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Kind:
    """What a package can be begun with: its template is checked like any other file of this one.

    Attributes:
        group: of its entry point.
        name: what stands in the template wherever the new name will stand.
        class_name: Python format of its class, from the beginning of the class names.
        example: of a name.
    """

    group: str
    name: str
    class_name: str
    example: str

    @property
    def template(self) -> Path:
        """Folder of the template."""
        return TEMPLATES / self.name

    @property
    def word(self) -> str:
        """``task`` or ``strategy``."""
        return registry.GROUPS[self.group].kind


CLASSIFICATION = Kind(registry.TASKS, "newclassification", "{}Task", "spoken_digits")
SEGMENTATION = Kind(registry.TASKS, "newsegmentation", "{}Task", "ms_lesions")
TASKS = {"classification": CLASSIFICATION, "segmentation": SEGMENTATION}
STRATEGY = Kind(registry.STRATEGIES, "newstrategy", "{}", "level")


def write_package(kind: Kind, name: str, folder: Path) -> None:
    """Write the package ``{name}_task`` or ``{name}_strategy``.

    Args:
        kind: one of ``TASKS``, or ``STRATEGY``.
        name: as ``--task`` or ``--strategy`` will take it.
        folder: new folder of the package; whole or not at all.

    Raises:
        ConfigError: if the name cannot be used.
        OutputError: if the folder exists or cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "spoken_digits"
        >>> write_package(CLASSIFICATION, "spoken_digits", folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'pyproject.toml', 'spoken_digits_task', 'tests']
    """
    camel_case = _camel_case(kind, name)
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder} exists already; name a new folder with --out")
    with atomic_folder(folder) as temporary:
        for source in sorted(kind.template.rglob("*")):
            if source.suffix in SUFFIXES:  # and not what Python compiled
                target = temporary / str(source.relative_to(kind.template)).replace(kind.name, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                text = source.read_text(encoding="utf-8")
                text = text.replace(kind.name, name).replace(kind.name.capitalize(), camel_case)
                target.write_text(text, encoding="utf-8")


def _camel_case(kind: Kind, name: str) -> str:
    """The beginning of the class names, such as ``SpokenDigits`` for ``spoken_digits``.

    Raises:
        ConfigError: if the name cannot be used.
    """
    what = f"{kind.word} name {name!r}"
    if not NAME.fullmatch(name):
        expected = "expected lower-case letters, digits and underscores, beginning with a letter"
        raise ConfigError(f"{what}: {expected}, such as {kind.example}")
    if keyword.iskeyword(name):
        raise ConfigError(f"{what} is a word of Python; choose another")
    if name in registry.names(kind.group):
        raise ConfigError(f"{what} is taken by {registry.package(kind.group, name)}; choose another")
    camel_case = "".join(part.capitalize() for part in name.split("_"))
    if kind.class_name.format(camel_case) in cggm_med.__all__:
        raise ConfigError(f"{what} would give its class the name of a base class; choose another")
    return camel_case
