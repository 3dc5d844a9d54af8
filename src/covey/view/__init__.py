"""Figures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covey.view.figures import curves as curves
    from covey.view.figures import histogram as histogram
    from covey.view.figures import holdings as holdings
    from covey.view.figures import save as save
    from covey.view.graphs import graph as graph

__all__ = ["curves", "graph", "histogram", "holdings", "save"]


def __getattr__(name: str) -> Any:
    """Import a function when it is first used: commands that draw nothing need no scipy."""
    if name not in __all__:
        raise AttributeError(f"module 'covey.view' has no attribute {name!r}")
    from covey.view import figures, graphs

    return getattr(graphs if name == "graph" else figures, name)
