"""Topologies: the graphs along which nodes send, and the rules that draw them."""

from covey.decentralized.topology.dynamic import (
    EpidemicLocal,
    EpidemicOracle,
    OnePeerExponential,
    RandomMatching,
    Redrawn,
)
from covey.decentralized.topology.edges import Edges
from covey.decentralized.topology.static import (
    Chain,
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
    Tree,
)
from covey.decentralized.topology.topology import Topology

__all__ = [
    "Chain",
    "Complete",
    "Edges",
    "EpidemicLocal",
    "EpidemicOracle",
    "ErdosRenyi",
    "Exponential",
    "FromNetworkx",
    "Grid",
    "OnePeerExponential",
    "RandomMatching",
    "RandomRegular",
    "Redrawn",
    "Ring",
    "SmallWorld",
    "Star",
    "Topology",
    "Torus",
    "Tree",
]
