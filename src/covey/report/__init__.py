"""Reports of runs as self-contained HTML pages."""

from covey.report.page import write_report

__all__ = ["write_report"]
