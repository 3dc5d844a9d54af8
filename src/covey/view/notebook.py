"""HTML for the cells of notebooks; its colours are those of the page, light or dark."""

import html
import sys
from importlib import import_module
from uuid import uuid4

_ACCENT = "#2a93d5"
_BAR = "display:inline-block;width:12em;height:.6em;border-radius:.3em;overflow:hidden;vertical-align:middle"
_RAIL = "background:rgba(128,128,128,.3)"


def is_here() -> bool:
    """Whether this process runs a notebook's cells, and not a terminal's lines."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return getattr(shell, "kernel", None) is not None


class Cell:
    """A part of the output of the running cell that can be replaced."""

    def __init__(self) -> None:
        self._id: str | None = None

    def show(self, page: str, text: str) -> None:
        """Put HTML in its place; a reader without HTML has the text."""
        interactive = import_module("IPython.display")
        shown = {"text/html": page, "text/plain": text}
        if self._id is None:
            self._id = uuid4().hex
            interactive.display(shown, raw=True, display_id=self._id)
        else:
            interactive.update_display(shown, raw=True, display_id=self._id)


def bar(title: str, done: float, words: str) -> str:
    """A bar of which a share is done, between a title and words."""
    inner = f'<span style="display:block;height:100%;width:{100 * min(done, 1.0):.1f}%;background:{_ACCENT}"></span>'
    return (
        f'<div style="font-variant-numeric:tabular-nums"><b>{html.escape(title)}</b> '
        f'<span style="{_BAR};{_RAIL}">{inner}</span> {html.escape(words)}</div>'
    )


def captioned(picture: str, caption: str) -> str:
    """A picture with a line below it."""
    return f'<div style="margin-top:.4em">{picture}<br><small>{html.escape(caption)}</small></div>'
