"""Writing a small package with a task that trains at once: a beginning for tasks of one's own."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import cggm_med
from cggm_med import registry
from cggm_med.errors import ConfigError, OutputError
from cggm_med.files import atomic_folder

# A package that is checked like any other file of this one, with "newtask" wherever the task's name stands.
TEMPLATE = Path(__file__).with_name("templates") / "new_task"
SUFFIXES = (".md", ".py", ".toml")
NAME = re.compile(r"[a-z][a-z0-9_]*")


def write_task(name: str, folder: Path) -> None:
    """Write the package ``{name}_task``.

    Args:
        name: of the task, as ``--task`` will take it.
        folder: new folder of the package; whole or not at all.

    Raises:
        ConfigError: if the name cannot be used.
        OutputError: if the folder exists or cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "spoken_digits"
        >>> write_task("spoken_digits", folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'pyproject.toml', 'spoken_digits_task', 'tests']
    """
    class_name = _class_name(name)
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder} exists already; name a new folder with --out")
    with atomic_folder(folder) as temporary:
        for source in sorted(TEMPLATE.rglob("*")):
            if source.suffix in SUFFIXES:  # and not what Python compiled
                target = temporary / str(source.relative_to(TEMPLATE)).replace("newtask", name)
                target.parent.mkdir(parents=True, exist_ok=True)
                text = source.read_text(encoding="utf-8").replace("newtask", name).replace("Newtask", class_name)
                target.write_text(text, encoding="utf-8")


def _class_name(name: str) -> str:
    """The beginning of the task's class names, such as ``SpokenDigits`` for ``spoken_digits``.

    Raises:
        ConfigError: if the name cannot be used.
    """
    expected = "expected lower-case letters, digits and underscores, beginning with a letter, such as spoken_digits"
    if not NAME.fullmatch(name):
        raise ConfigError(f"task name {name!r}: {expected}")
    if keyword.iskeyword(name):
        raise ConfigError(f"task name {name!r} is a word of Python; choose another")
    if name in registry.names(registry.TASKS):
        raise ConfigError(f"task name {name!r} is taken by {registry.package(registry.TASKS, name)}; choose another")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    if f"{class_name}Task" in cggm_med.__all__:
        raise ConfigError(f"task name {name!r} would give its class the name of a base class; choose another")
    return class_name
