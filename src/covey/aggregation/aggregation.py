"""The rule that merges a node's own model and the models that arrived."""

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
    """The model, or the part of a model, that one neighbour sent.

    Args:
        sender: the neighbour.
        values: the values of some parameters, or of all.
        indices: the indices of these among the P parameters; None if `values` has all.
    """

    __slots__ = ("sender", "shared_indices", "shared_values")

    def __init__(self, sender: NodeId, values: Tensor, indices: Tensor | None = None) -> None:
        self.sender = sender
        self.shared_values = values
        """The values in memory that all receivers of the message share. They must not be written to."""
        self.shared_indices = indices

    @property
    def values(self) -> Tensor:
        """A copy of the values that can be written to."""
        return own(self.shared_values)

    @property
    def indices(self) -> Tensor | None:
        """A copy of the indices that can be written to."""
        return None if self.shared_indices is None else own(self.shared_indices)


class Aggregation(Part):
    """A rule that merges models. One object serves all nodes."""

    family: ClassVar[str] = "aggregation"

    def check_with(self, topology: Graphs) -> None:
        """Raise ConfigurationError if this rule does not work on the topology."""

    def merge(self, node: Node, graph: Graph, own: Tensor, contributions: Sequence[Contribution]) -> Tensor | Mixture:
        """Merge a node's own values, usually its model, with those that arrived."""
        raise NotImplementedError

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float] | None:
        """The weight that a node gives to each of `graph.senders(node)`. Its own weight is 1 minus their sum.

        None if the weights depend on the values that arrive.
        """
        return None

    def of_edges(self, graph: Graph) -> NDArray[np.float64] | None:
        """The weights of all edges of a graph, in the graph's order; None if they depend on the values."""
        found: list[float] = []
        for node in range(graph.n):
            weights = self.weights(NodeId(node), graph)
            if weights is None:
                return None
            found += weights
        return np.array(found, np.float64)

    @property
    def is_linear(self) -> bool:
        """True if `merge` is the sum of the own model and whole ones with `weights`, once all have arrived."""
        return False

    def reach(self, node: NodeId, graph: Graph) -> float:
        """The sum of the weights that a node gives to others. It exceeds 1 if its own weight is negative."""
        weights = self.weights(node, graph)
        return 1.0 if weights is None else sum(weights)


class Linear(Aggregation):
    """A fixed weight for each neighbour. The node's own weight is 1 minus the weights of those that arrived."""

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        raise NotImplementedError

    @property
    def is_linear(self) -> bool:
        return type(self).merge is Linear.merge

    def merge(self, node: Node, graph: Graph, own: Tensor, contributions: Sequence[Contribution]) -> Mixture:
        senders, weights = graph.senders(node.id), self.weights(node.id, graph)
        if len(contributions) < len(senders):
            weight_of = dict(zip(senders, weights, strict=True))
            weights = [weight_of[arrived.sender] for arrived in contributions]
        return mixture(own, contributions, weights)


def mixture(own: Tensor, contributions: Sequence[Contribution], weights: Sequence[float]) -> Mixture:
    """The weighted sum of own values and contributions. A partial contribution is completed by own values."""
    models = [own, *[arrived.shared_values for arrived in contributions if arrived.shared_indices is None]]
    if len(models) > len(contributions):
        return Mixture(models, [1.0 - _sum(weights), *weights])
    models, shares, pulls = [own], [1.0], []
    for arrived, weight in zip(contributions, weights, strict=True):
        if arrived.shared_indices is None:
            models.append(arrived.shared_values)
            shares.append(weight)
        else:
            pulls.append(Pull(arrived.shared_indices, arrived.shared_values, weight))
    shares[0] -= sum(shares[1:])
    return Mixture(models, shares, pulls)


def _sum(weights: Sequence[float]) -> float:
    """The sum from the first to the last, as `Graph.own_weights` adds. From Python 3.12 on, `sum` rounds otherwise."""
    total = 0.0
    for weight in weights:
        total += weight
    return total
