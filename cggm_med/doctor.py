"""Looking at the installation: versions, devices, what is missing and the command that mends it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass

PACKAGES = ("torch", "monai", "nibabel", "SimpleITK", "torchio", "nnunetv2", "numpy", "matplotlib", "rich", "typer")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is as it should be.
        found: what was found.
        mend: command or hint, if there is something to do.
    """

    name: str
    ok: bool
    found: str
    mend: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything; yields one finding after the other."""
    yield Finding("Python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("cggm-med", *PACKAGES):
        try:
            yield Finding(package, True, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, False, "not installed", f"pip install '{package}'")
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield Finding(f"GPU {index}", True, f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB")
    else:
        hint = "a GPU is not needed; for one, install the CUDA build of torch that fits its driver"
        yield Finding("GPU", True, f"none; training on the CPU with {torch.get_num_threads()} threads", hint)
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # a build for another torch fails in many ways
            yield Finding(
                "torchvision",
                True,
                f"installed, but built for another torch ({type(error).__name__}); nothing here needs it",
                "for other software: pip install torchvision with the version that fits this torch",
            )
