"""Averages: the merged model is a linear combination of the own model and those that arrived."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution, Linear, mixture
from covey.learning.mixture import Mixture
from covey.network.graph import Graph, Graphs
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import param
from covey.runtime.node import Node


class Mean(Linear):
    """Equal weights on the own model and on each that arrived. The network's mean is kept in expectation."""

    kind = "mean"

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        count = len(graph.senders(node))
        return [1.0 / (1 + count)] * count

    def of_edges(self, graph: Graph) -> NDArray[np.float64] | None:
        if type(self).weights is not Mean.weights:
            return super().of_edges(graph)
        return 1.0 / (1 + graph.in_degrees[graph.targets])

    @property
    def is_linear(self) -> bool:
        return type(self).merge is Mean.merge and type(self).weights is Mean.weights

    def merge(self, node: Node, graph: Graph, own: Tensor, contributions: Sequence[Contribution]) -> Mixture:
        count = len(contributions)
        return mixture(own, contributions, [1.0 / (1 + count)] * count)


class MetropolisHastings(Linear):
    """Weight 1 / (1 + the larger degree of the two ends) on every neighbour. Doubly stochastic on undirected graphs."""

    kind = "metropolis-hastings"

    def check_with(self, topology: Graphs) -> None:
        if topology.one_way() or (topology.can_be_drawn() and not topology.at(0).is_undirected):
            raise ConfigurationError(
                f"The aggregation metropolis-hastings needs an undirected graph, but {topology.title()} is directed. "
                f"Use aggregation 'mean'."
            )

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        return graph.metropolis(node)

    def of_edges(self, graph: Graph) -> NDArray[np.float64] | None:
        own = type(self).weights is MetropolisHastings.weights
        return graph.metropolis_weights if own else super().of_edges(graph)


class Given(Linear):
    """The edge weights of the topology."""

    kind = "given"

    def check_with(self, topology: Graphs) -> None:
        if not topology.weighted and (not topology.can_be_drawn() or topology.at(0).weights is None):
            raise ConfigurationError(
                f"The aggregation given needs a topology with weights of its own, and {topology.title()} has none. "
                f"Use aggregation 'metropolis-hastings' or 'mean'."
            )

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        return graph.given(node)

    def of_edges(self, graph: Graph) -> NDArray[np.float64] | None:
        return graph.weights if type(self).weights is Given.weights else super().of_edges(graph)


class Lazy(Linear):
    """The weights of another rule, made smaller, so that a node keeps more of its own model.

    The mixing matrix W becomes own I + (1 - own) W. With 1/2, no eigenvalue is negative if W is symmetric.
    """

    kind = "lazy"
    rule: Aggregation | None = param(
        "The other rule, one with fixed weights; by default, given if the graph has weights, else metropolis-hastings.",
        default=None,
    )
    own: float = param("The weight that the own model keeps.", default=0.5, ge=0, lt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rule = self.rule or MetropolisHastings()

    def check_with(self, topology: Graphs) -> None:
        weighted = topology.weighted or (topology.can_be_drawn() and topology.at(0).weights is not None)
        self._rule = self.rule or (Given() if weighted else MetropolisHastings())
        self._rule.check_with(topology)
        if topology.can_be_drawn() and self._rule.of_edges(topology.at(0)) is None:
            raise ConfigurationError(
                f"The 'rule' of {self.named()} must have fixed weights. Got {self._rule.title()} instead."
            )

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        weights = self._rule.weights(node, graph)
        assert weights is not None
        return [(1.0 - self.own) * weight for weight in weights]

    def of_edges(self, graph: Graph) -> NDArray[np.float64] | None:
        if type(self).weights is not Lazy.weights:
            return super().of_edges(graph)
        weights_E = self._rule.of_edges(graph)
        return None if weights_E is None else (1.0 - self.own) * weights_E
