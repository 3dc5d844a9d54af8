"""HTML pages about runs, each a file that needs no other."""

from covey.pages.page import write_report

__all__ = ["write_report"]
