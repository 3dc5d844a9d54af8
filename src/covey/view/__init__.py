"""Figures of runs, drawn with matplotlib, and numbers as text."""

from covey.view.figures import curves, histogram, holdings, save
from covey.view.graphs import graph

__all__ = ["curves", "graph", "histogram", "holdings", "save"]
