"""Make a torchvision importable that was built for another torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

NAME = "torchvision"


def repair_torchvision() -> None:
    """Let torchvision be imported without its compiled operators, where these do not fit the installed torch.

    transformers, timm and what builds on them import torchvision if it is installed. One that was built for another
    torch, such as a CUDA build beside a CPU torch, cannot load its operators and then fails with ``operator
    torchvision::nms does not exist``, since it registers them with torch regardless. Here these registrations are left
    out: its Python parts then work, its operators stay absent. If it still cannot be imported, it counts as not
    installed.

    Nothing happens where torchvision works or is absent. Call it in every process before such packages are imported.
    """
    if NAME in sys.modules or importlib.util.find_spec(NAME) is None or _imports():
        return
    real = torch.library.register_fake

    def register_fake(op: Any, func: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
        if isinstance(op, str) and op.startswith(f"{NAME}::"):
            return _unchanged if func is None else func
        return real(op, func, **settings)

    torch.library.register_fake = register_fake
    try:
        if not _imports():
            sys.modules[NAME] = None  # type: ignore[assignment]  # makes Python treat it as not installed
    finally:
        torch.library.register_fake = real


def _imports() -> bool:
    """Whether torchvision can be imported; if not, no part of it is left behind."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(NAME)
        return True
    except Exception:  # a broken package may fail in any way
        for module in [name for name in sys.modules if name.partition(".")[0] == NAME]:
            del sys.modules[module]
        return False


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
