"""Names of devices, which are checked before torch is imported; whether a device is there, only torch knows."""

from __future__ import annotations

import re

from cggm_med.errors import ConfigError


def require_device(name: str, key: str) -> None:
    """Refuse what is no name of a device.

    Args:
        name: as it was given.
        key: of the setting, or what else to call it.

    Raises:
        ConfigError: for a name of another form.

    Example:
        >>> require_device("cuda:1", "train.device")
    """
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name) is None:
        raise ConfigError(f"{key} is {name}, expected auto, cpu, cuda, cuda:N or mps")
