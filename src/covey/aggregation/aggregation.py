"""The part of gossip that makes one model of the own one and what arrived."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.mixture import Mixture, Pull
from covey.messages.ownership import own
from covey.network.graph import Graph, Graphs
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part
from covey.runtime.node import Node


class Contribution:
    """What one neighbour gives to the merged model.

    Args:
        sender: who.
        values: some parameters, or all.
        indices: which of the P parameters they are; None where they are all.
    """

    __slots__ = ("sender", "shared_indices", "shared_values")

    def __init__(self, sender: NodeId, values: Tensor, indices: Tensor | None = None) -> None:
        self.sender = sender
        self.shared_values = values
        """As all receivers have them, who share one message: nobody may write to them."""
        self.shared_indices = indices

    @property
    def values(self) -> Tensor:
        """The parameters, to do with as one likes."""
        return own(self.shared_values)

    @property
    def indices(self) -> Tensor | None:
        """Which they are."""
        return None if self.shared_indices is None else own(self.shared_indices)


class Aggregation(Part):
    """Merges; one object serves all nodes."""

    family: ClassVar[str] = "aggregation"

    def check_with(self, topology: Graphs) -> None:
        """Raise ConfigurationError where this rule makes no sense on the topology."""

    def merge(self, node: Node, graph: Graph, own: Tensor, contributions: Sequence[Contribution]) -> Tensor | Mixture:
        """What becomes of a node's own numbers, most often its model, and those that arrived."""
        raise NotImplementedError

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float] | None:
        """The weight that a node gives to each of `graph.senders(node)`; what is missing to 1 is its own.

        None where no weights are known beforehand: what arrives decides.
        """
        return None

    def of_edges(self, graph: Graph) -> NDArray[np.float64] | None:
        """The weights of all edges of a graph, in its order of them; None where no weights are known beforehand."""
        found: list[float] = []
        for node in range(graph.n):
            weights = self.weights(NodeId(node), graph)
            if weights is None:
                return None
            found += weights
        return np.array(found, np.float64)

    def reach(self, node: NodeId, graph: Graph) -> float:
        """How far a node moves towards the mean of others; beyond it, above 1, where its own weight is negative."""
        weights = self.weights(node, graph)
        return 1.0 if weights is None else sum(weights)


class Linear(Aggregation):
    """A weight for each neighbour; what is missing to 1, that of absent neighbours included, is the node's own."""

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        raise NotImplementedError

    def merge(self, node: Node, graph: Graph, own: Tensor, contributions: Sequence[Contribution]) -> Mixture:
        senders, weights = graph.senders(node.id), self.weights(node.id, graph)
        if len(contributions) < len(senders):
            weight_of = dict(zip(senders, weights, strict=True))
            weights = [weight_of[arrived.sender] for arrived in contributions]
        return mixture(own, contributions, weights)


def mixture(own: Tensor, contributions: Sequence[Contribution], weights: Sequence[float]) -> Mixture:
    """Own numbers and weighted contributions, whole ones and parts; what a part does not hold is the own number."""
    models = [own, *[arrived.shared_values for arrived in contributions if arrived.shared_indices is None]]
    if len(models) > len(contributions):
        return Mixture(models, [1.0 - sum(weights), *weights])
    models, shares, pulls = [own], [1.0], []
    for arrived, weight in zip(contributions, weights, strict=True):
        if arrived.shared_indices is None:
            models.append(arrived.shared_values)
            shares.append(weight)
        else:
            pulls.append(Pull(arrived.shared_indices, arrived.shared_values, weight))
    shares[0] -= sum(shares[1:])
    return Mixture(models, shares, pulls)
