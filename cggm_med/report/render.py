"""The templates of the report's own pages."""

from __future__ import annotations

from pathlib import Path

from cggm_med.pages.page import Templates

PAGES = Templates(Path(__file__).with_name("templates"))
render = PAGES.render
