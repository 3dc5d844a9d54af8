"""One self-contained HTML page on runs."""

from covey.report.page import write_report

__all__ = ["write_report"]
