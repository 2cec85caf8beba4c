"""A page as headless Chromium shows it: a picture of it, or what has become of its elements."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FLAGS = (
    *("--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=20000"),
)


def screenshot(page: Path, size: tuple[int, int], settings: str = "") -> np.ndarray:
    """``(row, column, colour)`` of 0 to 255; the page must not have written anything to the console."""
    with tempfile.TemporaryDirectory() as folder:
        _run(page, settings, f"--window-size={size[0]},{size[1]}", f"--screenshot={folder}/shot.png")
        return np.asarray(Image.open(f"{folder}/shot.png").convert("RGB")).astype(int)


def elements(page: Path, settings: str = "") -> str:
    """HTML of what the page has become, without the data that it holds."""
    text = _run(page, settings, "--window-size=1280,800", "--dump-dom")
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def _run(page: Path, settings: str, *flags: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"{page.resolve().as_uri()}#{settings}"
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, address]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    return done.stdout
