"""``cggm-med doctor``: versions, devices, missing packages and the commands that install them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import typer
from packaging.requirements import Requirement

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import Debug
from cggm_med.errors import counted

PROJECT = "cggm-med"
FOR_DEVELOPERS = ("dev", "docs")  # extras that nobody needs who uses the package


@dataclass(frozen=True)
class Check:
    """The state of one package or device.

    Attributes:
        name: its name.
        ok: whether it is as it should be.
        state: such as its version.
        fix: command or hint, if there is something to do.
    """

    name: str
    ok: bool
    state: str
    fix: str = ""


def doctor(json: JsonFile = None, debug: Debug = False) -> None:
    """Show versions, devices, and how to fix what is missing."""
    require_json(json, "doctor")
    checks = []
    for check in examine():
        checks.append(check)
        typer.echo(f"{'ok     ' if check.ok else 'MISSING'} {check.name}: {check.state}")
        if check.fix:
            typer.echo(f"        {check.fix}")
    write_shown(json, "doctor", {"checks": [asdict(check) for check in checks]})
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def examine() -> Iterator[Check]:
    """Check all packages and devices."""
    yield Check("Python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Check(PROJECT, True, importlib.metadata.version(PROJECT))
    extras = importlib.metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    for extra in ("", *(extra for extra in extras if extra not in FOR_DEVELOPERS)):
        for needed in map(Requirement, importlib.metadata.requires(PROJECT) or ()):
            if needed.marker.evaluate({"extra": extra}) if needed.marker else not extra:
                yield _package(needed, extra)
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield Check(f"GPU {index}", True, f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB")
    else:
        hint = "a GPU is not needed; for one, install the CUDA build of torch that fits its driver"
        yield Check("GPU", True, f"none; training on the CPU with {counted(torch.get_num_threads(), 'thread')}", hint)
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # a build for another torch fails in many ways
            yield Check(
                "torchvision",
                True,
                f"installed, but built for another torch ({type(error).__name__}); nothing here needs it",
                "for other software: pip install torchvision with the version that fits this torch",
            )


def _package(needed: Requirement, extra: str) -> Check:
    """Check that a package is installed in a version that fits; one of an extra may be absent."""
    command = f"pip install '{PROJECT}[{extra}]'" if extra else f"pip install '{needed.name}{needed.specifier}'"
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        state = f"not installed; only what needs extra '{extra}' misses it" if extra else "not installed"
        return Check(needed.name, bool(extra), state, command)
    if not needed.specifier.contains(version, prereleases=True):
        return Check(needed.name, False, f"{version}, expected {needed.specifier}", command)
    return Check(needed.name, True, version)
