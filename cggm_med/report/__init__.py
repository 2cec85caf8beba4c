"""One self-contained HTML page about finished runs: ``write_report``."""

from __future__ import annotations

from cggm_med.report.page import write_report

__all__ = ["write_report"]
