"""The part of gossip that makes one model of the own one and what arrived."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from covey.node import Mixture, Node
from covey.parameters import Part
from covey.sharing import Contribution
from covey.topology import Graph, Topology


class Aggregation(Part):
    """Merges; one object serves all nodes."""

    family: ClassVar[str] = "aggregation"

    def check(self, topology: Topology) -> None:
        """Raise ConfigurationError where this rule makes no sense on the topology; called once before every run."""

    def merge(self, node: Node, graph: Graph, contributions: Sequence[Contribution]) -> Tensor | Mixture:
        """The node's new model."""
        raise NotImplementedError
