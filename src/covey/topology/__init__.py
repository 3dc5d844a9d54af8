"""Who talks to whom: graphs, and the rules that draw them."""

from covey.topology.dynamic import EpidemicLocal, EpidemicOracle, OnePeerExponential, RandomMatching, Redrawn
from covey.topology.edges import Edges
from covey.topology.graph import Graph
from covey.topology.static import (
    Complete,
    ErdosRenyi,
    Exponential,
    FromNetworkx,
    Grid,
    RandomRegular,
    Ring,
    SmallWorld,
    Star,
    Torus,
)
from covey.topology.topology import NotYetDrawn, Topology

__all__ = [
    "Complete",
    "Edges",
    "EpidemicLocal",
    "EpidemicOracle",
    "ErdosRenyi",
    "Exponential",
    "FromNetworkx",
    "Graph",
    "Grid",
    "NotYetDrawn",
    "OnePeerExponential",
    "RandomMatching",
    "RandomRegular",
    "Redrawn",
    "Ring",
    "SmallWorld",
    "Star",
    "Topology",
    "Torus",
]
