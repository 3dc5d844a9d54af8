"""Figures."""

from covey.view.figures import curves, graph, histogram, holdings, save

__all__ = ["curves", "graph", "histogram", "holdings", "save"]
