"""Who talks to whom: graphs, and the rules that draw them."""

from covey.topology.graph import Graph
from covey.topology.topology import Topology

__all__ = ["Graph", "Topology"]
